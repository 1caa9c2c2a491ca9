"""Labels of people and judges brought together, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.evaluation.tables import prompt_of, read_verdicts

Labels = list[float | None]


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
    by_id = all(row.get("id") is not None for rows in files.values() for row in rows)
    prompts: dict[object, str] = {}
    shown: dict[object, tuple[str, str]] = {}
    judged: dict[str, dict[object, float | None]] = {}
    labelled: dict[str, dict[object, float | None]] = {}
    for path, rows in files.items():
        names, found = (_unique_names(judges), judged) if path in judges else (_unique_names(humans), labelled)
        for row in rows:
            if found is labelled and row.get("annotator_kind") == "annotator":
                continue  # the service's export holds simulated annotators beside the people
            answers = row["output_1"], row["output_2"]
            key = row["id"] if by_id else (prompt_of(row), *sorted(answers))
            prompts.setdefault(key, prompt_of(row))
            turned = shown.setdefault(key, answers) == answers[::-1] != answers
            preference = 1.5 if row["preference"] == 0 else row["preference"]
            rater = names[path] if found is judged else _person(names[path], row, len(humans) > 1)
            if key in found.setdefault(rater, {}):
                raise InputError(
                    f"{path}: {rater} labels one pair twice: {prompts[key][:60]!r}; keep one label"
                    + ("" if found is labelled else ", or name a file of several people as --humans")
                )
            found[rater][key] = 3.0 - preference if turned and preference is not None else preference
    by_judges, by_people = ({key for rater in side.values() for key in rater} for side in (judged, labelled))
    kept = [key for key in prompts if not (judges and humans) or (key in by_judges and key in by_people)]
    if not kept:
        raise InputError("agreement: judges and people share no pair; give rows the same `id` or the same texts")
    return Joined(
        tuple(prompts[key] for key in kept),
        {name: [found.get(key) for key in kept] for name, found in judged.items()},
        {name: [found.get(key) for key in kept] for name, found in labelled.items()},
        len(prompts) - len(kept),
    )


def _person(file: str, row: Row, several: bool) -> str:
    name = row.get("annotator")
    return file if name is None else f"{file}:{name}" if several else str(name)


def _unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that tell them apart."""
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    return {path: str(path) for path in paths}
