"""`rayalign init`: a first job from a user's own data."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.cli.starter_sizes import Sizes
    from rayalign.data.readers import Use
    from rayalign.pipeline.machine import Machine
    from rayalign.types import Example

_ROWS = 2000
"""rows that are looked at"""
_LONGEST = 1024
"""context of a first job [tokens]"""
_VOCABULARY = 1024
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
    """Write a starter job from your data: format recognised, sizes fitted to rows and machine, with comments."""
    from rayalign.pipeline.machine import this_machine
    from rayalign.storage.records import atomic_write

    if output.exists():
        raise InputError(f"{output}: exists already; name another file with --output, or remove it")
    text = starter(data, model, output, this_machine())
    atomic_write(output, [text])
    typer.echo(f"{output}: written; next: rayalign check {output}, then rayalign run {output}")


def starter(data: str, model: str | None, output: Path, machine: Machine, device_bytes: int | None = None) -> str:
    """The text of a job that trains on the rows.

    Args:
        device_bytes: memory of one GPU; None: as its driver reports it.
    """
    from rayalign.cli.starter_sizes import device_memory, fit, preset_for
    from rayalign.config import ClusterConfig, DataConfig
    from rayalign.data.readers import format_of, load_examples
    from rayalign.models.catalogue import shape_of
    from rayalign.weights.headers import prove_folder

    if model is not None and (Path(model) / "config.json").is_file():
        prove_folder(Path(model))
    section = DataConfig(path=data)
    name = format_of(section)
    use = _use(name)
    examples = load_examples(section.model_copy(update={"limit": _ROWS}), seed=0, use=use)
    context = _context(examples)
    minibatch = 32 if len(examples) >= 320 else 8
    start = model or preset_for(machine)
    device_bytes = device_bytes or device_memory() or ClusterConfig().gpu_memory
    shape = shape_of(start, None if model else _VOCABULARY)
    sizes = fit(machine, device_bytes, shape, is_preset=model is None, minibatch=minibatch)
    head = _HEAD.format(
        data=data, format=name, rows=len(examples), name=output.stem, path=_beside(data, output), machine=sizes.machine
    )
    if machine.gpus:
        head += f"cluster: {{gpu_memory: {device_bytes}}}  # of one GPU [bytes]\n"
    if model is not None and _lacks_template(Path(model)):
        head += "chat_template: alpaca  # the model has none; or default, chatml, a file of yours\n"
    common = {"learner": _learner_text(sizes), "roles": _roles_text(sizes), "minibatch": minibatch}
    reference = "stage:base" if model is None else _beside(model, output)
    stages = _BASE.format(model=start, vocabulary=_VOCABULARY, roles=common["roles"]) if model is None else ""
    stages += _STAGES[use].format(model=reference, answer=min(128, context // 2), **common)
    return f"{head}{_rollout_text(sizes, context)}stages:\n  # {sizes.training}\n{stages}"


def _context(examples: Sequence[Example]) -> int:
    """Tokens that hold 95% of the dialogues."""
    lengths = []
    for example in examples:
        prompt = sum(len(turn.content) for turn in example.prompt.messages)
        lengths.append(prompt + max((len(answer.text) for answer in example.candidates), default=0))
    lengths.sort()
    usual = lengths[int(0.95 * (len(lengths) - 1))]
    return min(_LONGEST, max(128, -(-usual // (_CHARACTERS * 64)) * 64 + 64))


def _rollout_text(sizes: Sizes, context: int) -> str:
    longest = "longest prompt and answer together [tokens]; longer dialogues lose their oldest turns"
    lines = [f"rollout:\n  context: {context}  # {longest}"]
    for key, (value, reason) in sizes.rollout.items():
        lines.append(f"  {key}: {value}  # {reason}")
    return "\n".join(lines) + "\n"


def _learner_text(sizes: Sizes) -> str:
    """The settings that follow others in a section `learner`."""
    return "".join(f", {key}: {json.dumps(value)}" for key, value in sizes.learner.items())


def _roles_text(sizes: Sizes) -> str:
    """The line of a train stage that places its ranks; none where they run on the CPU."""
    return f"    roles: {{policy: {{actors: {sizes.ranks}, gpus: {sizes.gpus}}}}}\n" if sizes.gpus else ""


def _lacks_template(model: Path) -> bool:
    from rayalign.data.templates import has_template

    return (model / "config.json").is_file() and not has_template(model)


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
# Its sizes are for {machine}.
# rayalign check FILE shows what it would do; rayalign run FILE does it, and resumes it after an interrupt.
# Every other key has a default: docs/jobs.md, or rayalign schema.
name: {name}
data:
  path: {path}  # relative to this file
  format: {format}
"""
_BASE = """\
  base:  # a small model from nothing, for a first look; name your own in its place with `rayalign init --model`
    kind: pretrain
    model: {model}
    vocabulary: {vocabulary}  # pieces of the tokenizer that is trained on your texts
    epochs: 2
{roles}"""
_STAGES: dict[str, str] = {
    "demonstrations": """\
  sft:  # imitates the answers
    kind: train
    algorithm: {{name: sft}}
    model: {model}
    epochs: 2
    holdout: 0.1  # share of the prompts for the held-out loss
    learner: {{minibatch: {minibatch}, learning_rate: 1e-4, schedule: cosine{learner}}}
{roles}  samples:  # answers to look at, in runs/NAME/stages/samples/records.jsonl
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
    learner: {{minibatch: {minibatch}, learning_rate: 1e-4, schedule: cosine{learner}}}
{roles}  dpo:  # prefers the chosen answer to the rejected one
    kind: train
    algorithm: {{name: dpo}}
    model: stage:sft
    holdout: 0.1  # share of the prompts for the held-out accuracy
    learner: {{minibatch: {minibatch}, learning_rate: 2e-5, schedule: cosine{learner}}}
{roles}  samples:  # answers to look at, in runs/NAME/stages/samples/records.jsonl
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
    learner: {{minibatch: {minibatch}, learning_rate: 5e-5, schedule: cosine{learner}}}
{roles}  samples:  # answers to look at, in runs/NAME/stages/samples/records.jsonl
    kind: generate
    model: stage:kto
    data: {{limit: 20, too_long: skip}}
    count: 1
    sampling: {{max_tokens: {answer}, temperature: 0.7}}
""",
}
