"""What the files of MT-Bench and Arena-Hard share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from rayalign.data.files import Row, is_hub_name, rows
from rayalign.errors import InputError
from rayalign.evaluation.tables import read_rows


class Identified(Protocol):
    """A question."""

    @property
    def id(self) -> int | str:
        """As the file gives it."""
        ...


Q = TypeVar("Q", bound=Identified)


def rows_of(source: str, split: str = "train") -> Iterator[tuple[Row, str]]:
    """The rows of a local file, or of a data set of the hub, with their places."""
    return rows(source, split) if is_hub_name(source) else read_rows(Path(source))


def distinct(questions: Iterable[tuple[Q, str]], source: str) -> list[Q]:
    """The questions, each read at its place.

    Raises:
        InputError: there is none, or an id occurs twice.
    """
    by_id: dict[int | str, Q] = {}
    for question, where in questions:
        if question.id in by_id:
            raise InputError(f"{where}: the question {question.id} occurs twice; give each its own id")
        by_id[question.id] = question
    if not by_id:
        raise InputError(f"{source}: holds no question")
    return list(by_id.values())


def answer_files(path: Path) -> list[Path]:
    """The file itself, or the .jsonl files of a folder in their order.

    Raises:
        InputError: a folder without such a file.
    """
    if not path.is_dir():
        return [path]
    files = [*sorted(path.glob("*.jsonl")), *sorted(path.glob("*.jsonl.gz"))]
    if not files:
        raise InputError(f"{path}: holds no .jsonl file of answers")
    return files


def model_of(path: Path) -> str:
    """The model that a file of answers is named for; its name may hold dots."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def answer_id(model: str, question_id: int | str, turns: Sequence[str]) -> str:
    """A hash of the model, the question and the text."""
    identity = "\0".join((model, str(question_id), *turns))
    return hashlib.sha256(identity.encode()).hexdigest()[:22]
