"""MT-Bench's files in the public schema: questions, answers of models and references, judgments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayalign.annotator.endpoints.parsing import encodable
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.evaluation.bench_files import answer_files, answer_id, distinct, model_of, rows_of
from rayalign.evaluation.mt_bench import REFERENCE_CATEGORIES, Id
from rayalign.evaluation.tables import check_texts, read_rows
from rayalign.storage.records import write_jsonl

Turns = tuple[str, ...]
_SINGLE = ("question_id", "model", "judge", "score")
_PAIR = ("question_id", "model_1", "model_2", "judge")


@dataclass(frozen=True, slots=True)
class Question:
    """One question of one or two turns."""

    id: Id
    category: str
    turns: Turns
    reference: Turns = ()
    """answers to the turns, where the question file has them"""

    @property
    def needs_reference(self) -> bool:
        """True in the categories that are judged with a reference answer."""
        return self.category in REFERENCE_CATEGORIES


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers: the turns by the question's id."""

    model: str
    turns: Mapping[Id, Turns]


def read_questions(source: str, split: str = "train") -> list[Question]:
    """The questions of a file, or of a data set of the Hugging Face hub.

    Rows have question_id, category, turns and maybe reference; hub rows may call the first prompt_id and the third
    prompt.

    Raises:
        InputError: no such file or data set, no question, a bad row, or an id that occurs twice.
    """
    questions = [(_question(row, where), where) for row, where in rows_of(source, split)]
    return distinct(questions, source)


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions in the public schema."""
    write_jsonl(path, map(_question_row, questions))


def read_answers(path: Path) -> list[Answers]:
    """The answers of a file, or of every .jsonl file of a folder such as model_answer.

    A model's name is `model_id`, else the file's name; of each row the first choice counts.

    Raises:
        InputError: no such file, an empty folder, or a bad row.
    """
    answers = []
    for file in answer_files(path):
        turns_by_model: dict[str, dict[Id, Turns]] = {}
        for row, where in read_rows(file):
            model = str(row.get("model_id") or model_of(file))
            turns_by_model.setdefault(model, {})[identifier(row, where)] = _choice(row, where)
        answers += [Answers(model, turns) for model, turns in turns_by_model.items()]
    return answers


def write_answers(path: Path, answers: Answers, *, tstamp: float) -> None:
    """Write a model's answers in the public schema; the answer's id is a hash of model, question and text."""
    answer_rows = []
    for question_id, turns in answers.turns.items():
        choices = [{"index": 0, "turns": list(turns)}]
        row = {"question_id": question_id, "answer_id": answer_id(answers.model, question_id, turns)}
        answer_rows.append({**row, "model_id": answers.model, "choices": choices, "tstamp": tstamp})
    write_jsonl(path, answer_rows)


def references_for(questions: Sequence[Question], path: Path | None) -> dict[Id, Turns]:
    """The reference answers of the questions that need one: of a file of answers, else of the questions.

    Raises:
        InputError: a question that needs a reference lacks one of its turns.
    """
    references: dict[Id, Turns] = {}
    if path is not None:
        for answers in read_answers(path):
            references.update(answers.turns)
    chosen: dict[Id, Turns] = {}
    missing: list[Id] = []
    for question in questions:
        if not question.needs_reference:
            continue
        turns = references.get(question.id, question.reference)
        if len(turns) < len(question.turns):
            missing.append(question.id)
        chosen[question.id] = turns
    if missing:
        shown = ", ".join(map(str, missing[:5]))
        raise InputError(
            f"mt-bench: {len(missing)} questions are judged with a reference answer and have none ({shown}); give the "
            "file of references"
        )
    return chosen


def read_judgments(path: Path, kind: Literal["single", "pairwise"]) -> list[Row]:
    """The rows of a judgment file.

    Raises:
        InputError: no such file, an empty one, or a row of another schema.
    """
    fields = _SINGLE if kind == "single" else _PAIR
    judgments = []
    for row, where in read_rows(path):
        missing = [name for name in fields if name not in row]
        if kind == "pairwise" and "winner" not in row:
            missing += [name for name in ("g1_winner", "g2_winner") if name not in row]
        if missing:
            raise InputError(f"{where}: is no {kind} judgment, it lacks {', '.join(missing)}")
        if kind == "single" and not isinstance(row["score"], int | float):
            raise InputError(f"{where}: `score` must be a number, -1 for none; this is {row['score']!r}")
        judgments.append(row)
    return judgments


def identifier(row: Row, where: str) -> Id:
    """The question's id; raises InputError where it is missing."""
    for name in ("question_id", "prompt_id", "uid"):
        if isinstance(row.get(name), int | str):
            value: Id = row[name]
            return value
    raise InputError(f"{where}: `question_id` must be a number or text")


def _question(row: Row, where: str) -> Question:
    check_texts(row, where, ("category",))
    turns = _texts(row.get("turns", row.get("prompt")), f"{where}: `turns`")
    if not 1 <= len(turns) <= 2:
        raise InputError(f"{where}: `turns` must hold one or two texts, this holds {len(turns)}")
    reference = _texts(row.get("reference") or [], f"{where}: `reference`")
    return Question(identifier(row, where), row["category"], turns, reference)


def _question_row(question: Question) -> Row:
    row: Row = {"question_id": question.id, "category": question.category, "turns": list(question.turns)}
    return row | {"reference": list(question.reference)} if question.reference else row


def _choice(row: Row, where: str) -> Turns:
    choices: Any = row.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise InputError(f"{where}: `choices` must be a list of objects with `turns`")
    return _texts(choices[0].get("turns"), f"{where}: `turns` of the first choice")


def _texts(values: Any, where: str) -> Turns:
    if not isinstance(values, list | tuple):
        raise InputError(f"{where} must be a list of texts, this is {type(values).__name__}")
    texts = []
    for value in values:
        if not isinstance(value, str):
            raise InputError(f"{where} must hold texts, this holds {type(value).__name__}")
        texts.append(encodable(value))
    return tuple(texts)
