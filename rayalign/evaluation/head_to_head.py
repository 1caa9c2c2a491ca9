"""Output files against each other through any annotator: pairs, verdicts, win rates and ratings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rayalign.data.files import Row
from rayalign.errors import InputError, RayalignError
from rayalign.evaluation.tables import Annotations, check_preference, check_texts, prompt_of, read_rows
from rayalign.statistics.ratings import Rating, bradley_terry

Annotate = Callable[[list[Row]], list[Row]]
"""rows of instruction, input, output_1, output_2 -> for each in order at least `preference` and `annotator`"""
_ASKED = ("instruction", "input", "output_1", "output_2")


@dataclass(frozen=True, slots=True)
class Outputs:
    """One model's answers, by instruction with input."""

    name: str
    rows: Mapping[str, Row]
    repeated: tuple[str, ...]
    """instructions that the file holds more than once; the first answer counts"""


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """Verdicts on every pair of models that was asked for."""

    annotations: tuple[Annotations, ...]
    notes: tuple[str, ...]
    """what was left out of the pairing"""

    def ratings(self, *, baseline: str | None = None) -> list[Rating]:
        """Bradley-Terry ratings over all verdicts; raises what `bradley_terry` does."""
        matches = [(a.baseline, a.name, p) for a in self.annotations for p in a.preferences]
        prompts = [prompt for a in self.annotations for prompt in a.prompts]
        return bradley_terry(matches, prompts, baseline=baseline)


def read_outputs(path: Path) -> Outputs:
    """A model's outputs in AlpacaEval's schema: `instruction`, `output`, and `generator` (else the file's name).

    Raises:
        InputError: no such file, an empty one, a bad row (named), or outputs of several generators.
    """
    found: dict[str, Row] = {}
    repeated, names = [], set()
    for row in output_rows(path):
        names.add(str(row.get("generator") or path.name.partition(".")[0]))
        prompt = prompt_of(row)
        if prompt in found:
            repeated.append(prompt)
        else:
            found[prompt] = row
    if len(names) > 1:
        raise InputError(f"{path}: outputs of several generators ({', '.join(sorted(names))}); one file for each")
    return Outputs(names.pop(), found, tuple(repeated))


def output_rows(path: Path) -> Iterator[Row]:
    """The checked rows of a file of outputs; raises InputError for no such file, an empty one, or a bad row (named)."""
    for row, where in read_rows(path):
        check_texts(row, where, ("instruction", "output"))
        yield row


def head_to_head(models: Sequence[Outputs], annotate: Annotate, *, baseline: Outputs | None = None) -> HeadToHead:
    """Ask about every prompt that two models share: each model against the baseline, or without one all pairs.

    Raises:
        InputError: too few models, two of one name, or a pair without a prompt in common.
        RayalignError: the annotator did not answer each pair with a preference.
    """
    everyone = [*([baseline] if baseline else []), *models]
    names = [model.name for model in everyone]
    if len(names) < 2:
        raise InputError("head to head: needs two models, or one and a baseline")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"head to head: two files name the generator {', '.join(twice)}; give them names of their own")
    notes = [_listed(f"{m.name}: instructions given twice, the first answer counts", m.repeated) for m in everyone]
    found = []
    for one, other in [(baseline, m) for m in models] if baseline else combinations(models, 2):
        shared = [prompt for prompt in one.rows if prompt in other.rows]
        if not shared:
            raise InputError(f"head to head: {one.name} and {other.name} have no instruction in common")
        notes.append(_listed(f"{other.name} lacks, of {one.name}", [p for p in one.rows if p not in other.rows]))
        notes.append(_listed(f"{one.name} lacks, of {other.name}", [p for p in other.rows if p not in one.rows]))
        rows = _verdicts([_pair(one, other, prompt) for prompt in shared], annotate)
        found.append(Annotations(Path(other.name), other.name, one.name, tuple(rows)))
    return HeadToHead(tuple(found), tuple(note for note in notes if note))


def _pair(one: Outputs, other: Outputs, prompt: str) -> Row:
    first, second = one.rows[prompt], other.rows[prompt]
    return {
        "instruction": first["instruction"],
        "input": first.get("input") or "",
        **({"dataset": first["dataset"]} if "dataset" in first else {}),
        "output_1": first["output"],
        "generator_1": one.name,
        "output_2": second["output"],
        "generator_2": other.name,
    }


def _verdicts(pairs: list[Row], annotate: Annotate) -> list[Row]:
    answers = annotate([{name: pair[name] for name in _ASKED} for pair in pairs])
    if len(answers) != len(pairs):
        raise RayalignError(f"head to head: the annotator gave {len(answers)} verdicts for {len(pairs)} pairs")
    for answer in answers:
        check_preference(answer, "head to head: the annotator's answer")
    return [{**answer, **pair} for pair, answer in zip(pairs, answers, strict=True)]


def _listed(what: str, prompts: Sequence[str]) -> str:
    """A note of how many there are and the first of them; empty for none."""
    if not prompts:
        return ""
    shown = "; ".join(repr(p if len(p) <= 60 else p[:57] + "...") for p in prompts[:3])
    return f"{what}: {len(prompts)} ({shown}{'; ...' if len(prompts) > 3 else ''})"
