"""Arena-Hard's files in the public schemas of v0.1 and v2.0: questions, answers, judgments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayalign.annotator.endpoints.parsing import encodable
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.evaluation.arena_games import CATEGORY, Rules
from rayalign.evaluation.arena_style import Style, style_of
from rayalign.evaluation.bench_files import answer_files, answer_id, distinct, model_of, rows_of
from rayalign.evaluation.tables import check_texts, read_rows
from rayalign.storage.records import write_jsonl

Id = int | str


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of one turn."""

    id: Id
    category: str
    prompt: str
    cluster: str = ""
    """`cluster`, or v2.0's `subcategory`"""
    form: Rules = "v2.0"
    """the schema that it came in; judgments are written in the same"""
    cluster_column: Literal["cluster", "subcategory"] = "cluster"
    """the name of the cluster's column in the file"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to a prompt."""

    text: str
    style: Style | None = None
    """as the file counts it"""


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers by the prompt's id."""

    model: str
    answers: Mapping[Id, Answer]


def read_questions(source: str, split: str = "train") -> list[Question]:
    """The questions of a file, or of a data set of the hub, in either schema.

    Raises:
        InputError: no such file or data set, no question, a bad row, or an id that occurs twice.
    """
    questions = [(_question(row, where), where) for row, where in rows_of(source, split)]
    return distinct(questions, source)


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write each question in the schema that it came in."""
    write_jsonl(path, map(_question_row, questions))


def read_answers(paths: Sequence[Path]) -> list[Answers]:
    """The answers of files or folders (model_answer), in either schema; a model is named in its rows, else by its file.

    Raises:
        InputError: no such file, an empty folder, a bad row, or two files of one model.
    """
    by_model: dict[str, dict[Id, Answer]] = {}
    files: dict[str, Path] = {}
    for path in paths:
        for file in answer_files(path):
            for row, where in read_rows(file):
                model = str(row.get("model") or row.get("model_id") or model_of(file))
                if files.setdefault(model, file) != file:
                    raise InputError(
                        f"{where}: {files[model]} holds answers of {model} too; give one file of each model"
                    )
                by_model.setdefault(model, {})[_id(row, where)] = _answer(row, where)
    return [Answers(model, answers) for model, answers in by_model.items()]


def write_answers(path: Path, answers: Answers, questions: Sequence[Question], *, tstamp: float) -> None:
    """Write the answers to these questions in the schema of each; styles that are absent are counted."""
    rows = []
    for question in questions:
        if question.id in answers.answers:
            rows.append(_answer_row(question, answers.model, answers.answers[question.id], tstamp))
    write_jsonl(path, rows)


def read_judgments(path: Path) -> list[Row]:
    """The rows of a judgment file of either version, or of all files of a folder.

    Raises:
        InputError: no such file, an empty one, or a row without two games.
    """
    judgments = []
    for file in answer_files(path):
        for row, where in read_rows(file):
            _id(row, where)
            if not isinstance(row.get("model"), str):
                raise InputError(f"{where}: `model` must be text")
            games = row.get("games")
            if not isinstance(games, list) or len(games) != 2:
                raise InputError(f"{where}: `games` must hold the two games of a judgment")
            judgments.append(row)
    return judgments


def styles_of(models: Sequence[Answers]) -> dict[str, dict[Id, Style]]:
    """The style of every answer, counted in one way: as the files count it, or where one of them does not, by us."""
    counted = all(_is_counted(model) for model in models)
    styles: dict[str, dict[Id, Style]] = {}
    for model in models:
        of_model: dict[Id, Style] = {}
        for identifier, answer in model.answers.items():
            of_model[identifier] = answer.style if counted and answer.style else style_of(answer.text)
        styles[model.model] = of_model
    return styles


def _is_counted(answers: Answers) -> bool:
    return all(answer.style for answer in answers.answers.values())


def _question(row: Row, where: str) -> Question:
    if "turns" not in row:
        check_texts(row, where, ("prompt",))
        category = str(row.get("category") or CATEGORY)
        column: Literal["cluster", "subcategory"] = "subcategory" if row.get("subcategory") else "cluster"
        cluster = str(row.get(column) or "")
        return Question(_id(row, where), category, row["prompt"], cluster, cluster_column=column)
    turns = row["turns"]
    if not isinstance(turns, list) or len(turns) != 1 or not _has_text(turns[0]):
        raise InputError(f"{where}: `turns` must hold one object with the text `content`")
    category, cluster = str(row.get("category") or CATEGORY), str(row.get("cluster") or "")
    return Question(_id(row, where), category, turns[0]["content"], cluster, "v0.1")


def _question_row(question: Question) -> Row:
    cluster: Row = {question.cluster_column: question.cluster} if question.cluster else {}
    if question.form == "v0.1":
        turns = [{"content": question.prompt}]
        return {"question_id": question.id, "category": question.category, **cluster, "turns": turns}
    return {"uid": question.id, "category": question.category, **cluster, "prompt": question.prompt}


def _answer(row: Row, where: str) -> Answer:
    if "messages" in row:
        return Answer(encodable(_last_text(row["messages"], where)), row.get("metadata"))
    choices = row.get("choices")
    turns = choices[0].get("turns") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if not isinstance(turns, list) or not turns or not _has_text(turns[0]):
        raise InputError(f"{where}: needs `messages` (v2.0), or `choices` with one turn of `content` (v0.1)")
    return Answer(encodable(turns[0]["content"]), row.get("conv_metadata"))


def _last_text(messages: Any, where: str) -> str:
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    text = content.get("answer") if isinstance(content, dict) else content
    if not isinstance(text, str):
        raise InputError(
            f"{where}: the last of `messages` must have a `content` that is a text or an object with `answer`"
        )
    return text


def _answer_row(question: Question, model: str, answer: Answer, tstamp: float) -> Row:
    own_id = answer_id(model, question.id, (answer.text,))
    style = dict(answer.style or style_of(answer.text))
    if question.form == "v0.1":
        turn = {"content": answer.text, "token_len": style["token_len"]}
        choices = [{"index": 0, "turns": [turn]}]
        names = {"question_id": question.id, "answer_id": own_id, "model_id": model}
        return {**names, "choices": choices, "tstamp": tstamp, "conv_metadata": style}
    user = {"role": "user", "content": question.prompt}
    messages = [user, {"role": "assistant", "content": {"answer": answer.text}}]
    names = {"uid": question.id, "ans_id": own_id, "model": model}
    return {**names, "messages": messages, "tstamp": tstamp, "metadata": style}


def _id(row: Row, where: str) -> Id:
    for name in ("uid", "question_id"):
        if isinstance(row.get(name), int | str):
            value: Id = row[name]
            return value
    raise InputError(f"{where}: needs a `uid` (v2.0) or a `question_id` (v0.1)")


def _has_text(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("content"), str)
