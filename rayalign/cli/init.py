"""`rayalign init`: a first job from a user's own data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.data.readers import Use

_ROWS = 2000
"""rows that are looked at"""
_LONGEST = 1024
"""context of a first job [tokens]"""
_CHARACTERS = 3
"""of a token, at least, in most languages that a small vocabulary was trained on"""


def init(
    data: Annotated[str, typer.Argument(help="A file or folder of rows, of any format.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The job file to write.")] = Path("job.yaml"),
    model: Annotated[
        str | None,
        typer.Option(help="A model folder or hub name.", show_default="a small one, trained on the data"),
    ] = None,
) -> None:
    """Write a starter job from your data: format recognised, sizes fitted to the rows, comments on what to change."""
    from rayalign.storage.records import atomic_write

    if output.exists():
        raise InputError(f"{output}: exists already; name another file with --output, or remove it")
    text = starter(data, model, output)
    atomic_write(output, [text])
    typer.echo(f"{output}: written; next: rayalign check {output}, then rayalign run {output}")


def starter(data: str, model: str | None, output: Path) -> str:
    """The text of a job that trains on the rows."""
    from rayalign.config import DataConfig
    from rayalign.data.readers import format_of, load_examples

    section = DataConfig(path=data)
    name = format_of(section)
    use = _use(name)
    examples = load_examples(section.model_copy(update={"limit": _ROWS}), seed=0, use=use)
    lengths = []
    for example in examples:
        prompt = sum(len(turn.content) for turn in example.prompt.messages)
        lengths.append(prompt + max((len(answer.text) for answer in example.candidates), default=0))
    lengths.sort()
    usual = lengths[int(0.95 * (len(lengths) - 1))]
    context = min(_LONGEST, max(128, -(-usual // (_CHARACTERS * 64)) * 64 + 64))
    minibatch = 32 if len(examples) >= 320 else 8
    head = _HEAD.format(
        data=data, format=name, rows=len(examples), name=output.stem, path=_beside(data, output), context=context
    )
    start = "base" if model is None else model
    stages = _BASE if model is None else ""
    reference = f"stage:{start}" if model is None else start
    stages += _STAGES[use].format(model=reference, minibatch=minibatch, answer=min(128, context // 2))
    return f"{head}{stages}"


def _use(name: str) -> Use:
    if name == "prompts":
        raise InputError(
            "these rows hold prompts alone; give rows with answers, or use `rayalign generate` with a model"
        )
    if name in ("hh", "comparisons", "shp", "webgpt", "ultrafeedback", "rankings"):
        return "comparisons"
    return "feedback" if name == "unpaired" else "demonstrations"


def _beside(data: str, output: Path) -> str:
    """The path of the data from the job's folder; of a hub name itself."""
    path = Path(data)
    return os.path.relpath(path.resolve(), output.resolve().parent) if path.exists() else data


_HEAD = """\
# A starter job for {data}: {rows} rows were looked at, and read as {format}.
# rayalign check FILE shows what it would do; rayalign run FILE does it, and resumes it after an interrupt.
# Every other key has a default: docs/jobs.md, or rayalign schema.
name: {name}
data:
  path: {path}  # relative to this file
  format: {format}
rollout:
  context: {context}  # longest prompt and answer together [tokens]; longer dialogues lose their oldest turns
  engines: 1
stages:
"""
_BASE = """\
  base:  # a small model from nothing, for a first look; name your own in its place with `rayalign init --model`
    kind: pretrain
    model: preset:nano
    vocabulary: 1024  # pieces of the tokenizer that is trained on your texts
    epochs: 2
"""
_STAGES: dict[str, str] = {
    "demonstrations": """\
  sft:  # imitates the answers
    kind: train
    algorithm: {{name: sft}}
    model: {model}
    epochs: 2
    holdout: 0.1  # share of the prompts for the held-out loss
    learner: {{minibatch: {minibatch}, learning_rate: 1e-4, schedule: cosine}}
  samples:  # answers to look at, in runs/NAME/stages/samples/records.jsonl
    kind: generate
    model: stage:sft
    data: {{limit: 20, too_long: skip}}
    count: 1
    sampling: {{max_tokens: {answer}, temperature: 0.7}}
""",
    "comparisons": """\
  sft:  # imitates the preferred answers first, so that they are likely enough to be compared
    kind: train
    algorithm: {{name: sft}}
    model: {model}
    learner: {{minibatch: {minibatch}, learning_rate: 1e-4, schedule: cosine}}
  dpo:  # prefers the chosen answer to the rejected one
    kind: train
    algorithm: {{name: dpo}}
    model: stage:sft
    holdout: 0.1  # share of the prompts for the held-out accuracy
    learner: {{minibatch: {minibatch}, learning_rate: 2e-5, schedule: cosine}}
  samples:  # answers to look at, in runs/NAME/stages/samples/records.jsonl
    kind: generate
    model: stage:dpo
    data: {{limit: 20, too_long: skip}}
    count: 1
    sampling: {{max_tokens: {answer}, temperature: 0.7}}
""",
    "feedback": """\
  kto:  # learns from answers that are good or bad by themselves
    kind: train
    algorithm: {{name: kto}}
    model: {model}
    learner: {{minibatch: {minibatch}, learning_rate: 5e-5, schedule: cosine}}
  samples:  # answers to look at, in runs/NAME/stages/samples/records.jsonl
    kind: generate
    model: stage:kto
    data: {{limit: 20, too_long: skip}}
    count: 1
    sampling: {{max_tokens: {answer}, temperature: 0.7}}
""",
}
