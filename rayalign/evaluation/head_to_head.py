"""Output files against each other through any annotator: pairs, verdicts, win rates and ratings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rayalign.data.files import Row
from rayalign.data.row_files import refuse_half_surrogates
from rayalign.errors import InputError, RayalignError
from rayalign.evaluation.tables import Annotations, check_preference, check_texts, prompt_of, read_rows
from rayalign.statistics.ratings import Rating, bradley_terry

Annotate = Callable[[list[Row]], list[Row]]
"""rows of instruction, input, output_1, output_2 -> for each in order at least `preference` and `annotator`"""
_QUESTION = ("instruction", "input", "output_1", "output_2")


@dataclass(frozen=True, slots=True)
class Outputs:
    """One model's answers, by instruction with input."""

    name: str
    rows: Mapping[str, Row]
    repeated: tuple[str, ...]
    """instructions that the file holds more than once; the first answer counts"""


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """Verdicts on every pair of models."""

    annotations: tuple[Annotations, ...]
    notes: tuple[str, ...]
    """what was left out of the pairing"""

    @property
    def rows(self) -> list[Row]:
        """All verdicts, pair of models by pair of models."""
        rows: list[Row] = []
        for games in self.annotations:
            rows.extend(games.rows)
        return rows

    def ratings(self, *, baseline: str | None = None) -> list[Rating]:
        """Bradley-Terry ratings over all verdicts; raises the errors of `bradley_terry`."""
        matches: list[tuple[str, str, float | None]] = []
        prompts: list[str] = []
        for games in self.annotations:
            matches.extend((games.baseline, games.name, preference) for preference in games.preferences)
            prompts.extend(games.prompts)
        return bradley_terry(matches, prompts, baseline=baseline)


def read_outputs(path: Path) -> Outputs:
    """A model's outputs in AlpacaEval's schema: `instruction`, `output`, and `generator` (else the file's name).

    Raises:
        InputError: no such file, an empty one, a bad row (named), or outputs of several generators.
    """
    rows: dict[str, Row] = {}
    repeated, names = [], set()
    for row in output_rows(path):
        names.add(generator_of(row, path))
        prompt = prompt_of(row)
        if prompt in rows:
            repeated.append(prompt)
        else:
            rows[prompt] = row
    if len(names) > 1:
        raise InputError(f"{path}: outputs of several generators ({', '.join(sorted(names))}); one file for each")
    return Outputs(names.pop(), rows, tuple(repeated))


def output_rows(path: Path) -> Iterator[Row]:
    """The checked rows of a file of outputs.

    Raises:
        InputError: no such file, an empty one, or a bad row (named).
    """
    for row, where in read_rows(path):
        check_texts(row, where, ("instruction", "output"))
        refuse_half_surrogates(row, where)
        yield row


def generator_of(row: Row, path: Path) -> str:
    """The model that wrote a row, else the file's name."""
    return str(row.get("generator") or path.name.partition(".")[0])


def head_to_head(models: Sequence[Outputs], annotate: Annotate, *, baseline: Outputs | None = None) -> HeadToHead:
    """Judge every prompt that two models share: each model against the baseline, or without one all pairs.

    Raises:
        InputError: too few models, two of one name, or a pair without a prompt in common.
        RayalignError: the annotator did not answer each pair with a preference.
    """
    everyone = [baseline, *models] if baseline else list(models)
    _check_names([model.name for model in everyone])
    notes = []
    for model in everyone:
        notes.append(_listed(f"{model.name}: instructions given twice, the first answer counts", model.repeated))
    games = [(baseline, model) for model in models] if baseline else list(combinations(models, 2))
    annotations = []
    for first, second in games:
        shared = [prompt for prompt in first.rows if prompt in second.rows]
        if not shared:
            raise InputError(f"head to head: {first.name} and {second.name} have no instruction in common")
        notes += [_missing(second, first), _missing(first, second)]
        verdicts = _verdicts([_pair(first, second, prompt) for prompt in shared], annotate)
        annotations.append(Annotations(Path(second.name), second.name, first.name, tuple(verdicts)))
    return HeadToHead(tuple(annotations), tuple(note for note in notes if note))


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise InputError("head to head: needs two models, or one and a baseline")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        listed = ", ".join(repeated)
        raise InputError(f"head to head: two files name the generator {listed}; give them names of their own")


def _pair(first: Outputs, second: Outputs, prompt: str) -> Row:
    answer_1, answer_2 = first.rows[prompt], second.rows[prompt]
    pair = {"instruction": answer_1["instruction"], "input": answer_1.get("input") or ""}
    if "dataset" in answer_1:
        pair["dataset"] = answer_1["dataset"]
    return {
        **pair,
        "output_1": answer_1["output"],
        "generator_1": first.name,
        "output_2": answer_2["output"],
        "generator_2": second.name,
    }


def _verdicts(pairs: list[Row], annotate: Annotate) -> list[Row]:
    questions = []
    for pair in pairs:
        questions.append({name: pair[name] for name in _QUESTION})
    answers = annotate(questions)
    if len(answers) != len(pairs):
        raise RayalignError(f"head to head: the annotator returned {len(answers)} verdicts for {len(pairs)} pairs")
    for answer in answers:
        check_preference(answer, "head to head: the annotator's answer")
    return [{**answer, **pair} for pair, answer in zip(pairs, answers, strict=True)]


def _missing(model: Outputs, reference: Outputs) -> str:
    """A note of the reference's prompts that the model did not answer; empty for none."""
    missing = [prompt for prompt in reference.rows if prompt not in model.rows]
    return _listed(f"{model.name} lacks, of {reference.name}", missing)


def _listed(label: str, prompts: Sequence[str]) -> str:
    """A note of how many there are and the first three of them; empty for none."""
    if not prompts:
        return ""
    shown = "; ".join(repr(prompt if len(prompt) <= 60 else prompt[:57] + "...") for prompt in prompts[:3])
    more = "; ..." if len(prompts) > 3 else ""
    return f"{label}: {len(prompts)} ({shown}{more})"
