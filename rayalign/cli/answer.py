"""`rayalign chat` and `rayalign generate`: answers of one model, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.rollout.answering import Answerer

Model = Annotated[
    str, typer.Argument(help="A model folder, a hub name, or runs/NAME/stages/STAGE.", show_default=False)
]
Tokens = Annotated[int, typer.Option(min=1, help="The longest answer.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")]
Template = Annotated[
    str | None,
    typer.Option(help="For a model without one: default, alpaca, chatml or a file.", show_default=False),
]


def chat(
    model: Model,
    max_tokens: Tokens = 256,
    temperature: Temperature = 0.7,
    system: Annotated[str, typer.Option(help="The system message.", show_default=False)] = "",
    chat_template: Template = None,
    seed: int = 0,
) -> None:
    """Talk with a model in the terminal; an empty line or Ctrl-D ends it, /new starts over."""
    from rayalign.data.fields import make_prompt
    from rayalign.types import Message

    answerer = _answerer(model, max_tokens, temperature, chat_template, seed)
    start = [Message("system", system)] if system else []
    turns = list(start)
    for question in _lines():
        if question == "/new":
            turns = list(start)
            continue
        turns.append(Message("user", question))
        turns.append(Message("assistant", _shown(answerer.stream(make_prompt(turns), draw=len(turns)))))


def generate(
    model: Model,
    prompts: Annotated[Path, typer.Option(help="Rows with prompts, of any format.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The file to write, in AlpacaEval's columns.")] = Path("outputs.json"),
    count: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    max_tokens: Tokens = 256,
    temperature: Temperature = 0.7,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts.", show_default="all")] = None,
    chat_template: Template = None,
    seed: int = 0,
) -> None:
    """Write a model's answers to a file of prompts: instruction, output, generator."""
    from rayalign.annotator.judges.prompts import instruction_of
    from rayalign.config import DataConfig
    from rayalign.data.readers import load_examples
    from rayalign.evaluation.tables import write_annotations
    from rayalign.storage.records import write_jsonl

    data = DataConfig(path=str(prompts), split="all", limit=limit)
    questions = [example.prompt for example in load_examples(data, seed=seed, use="prompts")]
    answerer = _answerer(model, max_tokens, temperature, chat_template, seed)
    name = Path(model).name
    rows: list[dict[str, Any]] = []
    for draw in range(count):
        for prompt, answer in zip(questions, answerer.answers(questions, draw), strict=True):
            rows.append({"instruction": instruction_of(prompt), "output": answer, "generator": name})
    if output.name.endswith(".jsonl"):
        write_jsonl(output, rows)
    else:
        write_annotations(output, rows)
    typer.echo(f"{output}: {len(rows)} answers to {len(questions)} prompts")


def _answerer(model: str, max_tokens: int, temperature: float, template: str | None, seed: int) -> Answerer:
    from rayalign.config import SamplingConfig
    from rayalign.rollout.answering import Answerer

    sampling = SamplingConfig(temperature=temperature, max_tokens=max_tokens)
    return Answerer(model_of(model), sampling, seed=seed, template=template)


def model_of(name: str) -> str:
    """The model folder of a stage's folder; any other name as it is.

    Raises:
        InputError: the stage has made no model.
    """
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return name
    if not (folder / "model" / "config.json").is_file():
        raise InputError(f"{name}: holds no model; name a model folder, or the folder of a stage that made one")
    return str(folder / "model")


def _lines() -> Iterator[str]:
    """What a person writes, line by line."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def _shown(pieces: Iterable[str]) -> str:
    """Print an answer while it is written; the whole of it."""
    text = ""
    for piece in pieces:
        typer.echo(piece, nl=False)
        text += piece
    typer.echo("")
    return text
