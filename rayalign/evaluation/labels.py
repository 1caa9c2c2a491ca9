"""Labels of people and judges, joined pair by pair."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.evaluation.tables import prompt_of, read_verdicts

Labels = list[float | None]
LabelsByPair = dict[Hashable, float | None]


@dataclass(frozen=True, slots=True)
class Joined:
    """Every rater's label of the same pairs in the same order, None where there is none."""

    prompts: tuple[str, ...]
    """of each pair"""
    judges: dict[str, Labels]
    """one for each file"""
    humans: dict[str, Labels]
    """one for each `annotator` within each file"""
    unmatched: int
    """pairs that only judges, or only people, labelled"""


def join_labels(judges: Sequence[Path], humans: Sequence[Path] = ()) -> Joined:
    """Pairs by `id` where every row has one, else by prompt and answers; either way in either order of the answers.

    Raises:
        InputError: a bad file or row, two files of one name, or no pair that judges and people share.
    """
    files = {path: list(read_verdicts(path)) for path in (*judges, *humans)}
    if len(files) < len(judges) + len(humans):
        raise InputError("agreement: a file is named twice; each rater has a file of its own")
    pairs = _Pairs(by_id=all(_all_have_ids(rows) for rows in files.values()))
    judged = _judges_labels({path: files[path] for path in judges}, pairs)
    labelled = _people_labels({path: files[path] for path in humans}, pairs)
    shared = list(pairs.prompts)
    if judges and humans:
        both = _labelled_pairs(judged) & _labelled_pairs(labelled)
        shared = [pair for pair in shared if pair in both]
    if not shared:
        raise InputError("agreement: judges and people share no pair; give rows the same `id` or the same texts")
    return Joined(
        tuple(pairs.prompts[pair] for pair in shared),
        _in_order(judged, shared),
        _in_order(labelled, shared),
        len(pairs.prompts) - len(shared),
    )


@dataclass
class _Pairs:
    """The pairs of all files in order of appearance; a pair keeps the order of answers in which it came first."""

    by_id: bool
    prompts: dict[Hashable, str] = field(default_factory=dict)
    answers: dict[Hashable, tuple[str, str]] = field(default_factory=dict)

    def label(self, row: Row) -> tuple[Hashable, float | None]:
        """The pair of a row, and its preference in the pair's own order."""
        answers = row["output_1"], row["output_2"]
        pair = row["id"] if self.by_id else (prompt_of(row), *sorted(answers))
        self.prompts.setdefault(pair, prompt_of(row))
        own_order = self.answers.setdefault(pair, answers)
        preference = 1.5 if row["preference"] == 0 else row["preference"]
        swapped = own_order == answers[::-1] != answers
        if swapped and preference is not None:
            preference = 3.0 - preference
        return pair, preference


def _judges_labels(files: Mapping[Path, Sequence[Row]], pairs: _Pairs) -> dict[str, LabelsByPair]:
    names = _unique_names(list(files))
    raters: dict[str, LabelsByPair] = {}
    for path, rows in files.items():
        for row in rows:
            pair, preference = pairs.label(row)
            labels = raters.setdefault(names[path], {})
            if pair in labels:
                repeated = _repeated(path, names[path], pairs.prompts[pair])
                raise InputError(f"{repeated}, or name a file of several people as --humans")
            labels[pair] = preference
    return raters


def _people_labels(files: Mapping[Path, Sequence[Row]], pairs: _Pairs) -> dict[str, LabelsByPair]:
    names = _unique_names(list(files))
    raters: dict[str, LabelsByPair] = {}
    for path, rows in files.items():
        for row in rows:
            if row.get("annotator_kind") == "annotator":
                continue  # the service's export holds simulated annotators beside the people
            pair, preference = pairs.label(row)
            rater = _person(names[path], row, several_files=len(files) > 1)
            labels = raters.setdefault(rater, {})
            if pair in labels:
                raise InputError(_repeated(path, rater, pairs.prompts[pair]))
            labels[pair] = preference
    return raters


def _repeated(path: Path, rater: str, prompt: str) -> str:
    return f"{path}: {rater} labels one pair twice: {prompt[:60]!r}; keep one label"


def _all_have_ids(rows: Sequence[Row]) -> bool:
    return all(row.get("id") is not None for row in rows)


def _labelled_pairs(raters: Mapping[str, LabelsByPair]) -> set[Hashable]:
    return set().union(*raters.values())


def _in_order(raters: Mapping[str, LabelsByPair], pairs: Sequence[Hashable]) -> dict[str, Labels]:
    columns = {}
    for name, labels in raters.items():
        columns[name] = [labels.get(pair) for pair in pairs]
    return columns


def _person(file: str, row: Row, *, several_files: bool) -> str:
    name = row.get("annotator")
    if name is None:
        return file
    return f"{file}:{name}" if several_files else str(name)


def _unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that differ from each other."""
    longest = max((len(path.parts) for path in paths), default=0)
    for depth in range(1, longest + 1):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    return {path: str(path) for path in paths}
