"""Arena-Hard's matches: each model against the baseline in two swapped games, and the rows that they make."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.evaluation.arena_files import Answers, Id, Question
from rayalign.evaluation.arena_games import BASELINES, Rules, is_open, label, prompt_id
from rayalign.evaluation.arena_prompts import CONTINUE, ArenaPrompts
from rayalign.evaluation.bench_judge import BenchJudge, Game, Reply
from rayalign.evaluation.bench_run import Judged, file_name, judge_matches

MAX_TOKENS: dict[Rules, int] = {"v0.1": 4096, "v2.0": 16000}
"""of a judgment, as published"""
_MARKS = ("[[A>B]]", "[[A=B]]", "[[B>A]]")


@dataclass(frozen=True, slots=True)
class ArenaMatch:
    """A model's answer to a prompt against the baseline's."""

    question: Question
    models: tuple[str, str]
    """the model and the baseline"""
    answers: tuple[str, str]
    judge: str
    rules: Rules
    prompts: ArenaPrompts

    @property
    def games(self) -> tuple[Game, Game]:
        """The baseline as A, then as B."""
        model, baseline = self.answers
        return self._game(baseline, model), self._game(model, baseline)

    @property
    def key(self) -> Hashable:
        """As `Match.key`."""
        prompts = [game.messages[-1]["content"] for game in self.games]
        return (self.question.id, self.models[0], self.judge, *prompts)

    async def judged(self, judge: BenchJudge) -> Row:
        """A row in the schema of the question."""
        played = [await self._played(game, judge) for game in self.games]
        costs = {"price": sum(game["price"] for game in played), "seconds": sum(game["seconds"] for game in played)}
        games = [_game_row(game, self.question.form) for game in played]
        model, baseline = self.models
        if self.question.form == "v0.1":
            names = {"question_id": self.question.id, "model": model, "judge": self.judge}
            return {**names, "games": games, **costs}
        category = {"uid": self.question.id, "category": self.question.category}
        return {**category, "judge": self.judge, "model": model, "baseline": baseline, "games": games, **costs}

    def _game(self, a: str, b: str) -> Game:
        question = self.question
        messages = self.prompts.messages(question.category, question.prompt, a, b)
        return Game(tuple(messages), (question.prompt, a, b), _MARKS)

    async def _played(self, game: Game, judge: BenchJudge) -> dict[str, Any]:
        """The game's text and label; a judge that gives no label is asked once more."""
        replies = [await judge.reply(game)]
        if is_open(replies[0].text, self.rules):
            earlier = ({"role": "assistant", "content": replies[0].text}, {"role": "user", "content": CONTINUE})
            replies.append(await judge.reply(game, earlier))
        text = "\n".join(reply.text for reply in replies)
        return {"score": label(text, self.rules), "text": text, "messages": game.messages, **_cost(replies)}


@dataclass(frozen=True, slots=True)
class ArenaStudy:
    """Everything that one run of the benchmark reads."""

    questions: Sequence[Question]
    answers: Sequence[Answers]
    rules: Rules
    prompts: ArenaPrompts
    baselines: Mapping[str, str] = field(default_factory=dict)
    """category -> baseline, for categories with another than the published one; the empty text for all"""

    def baseline(self, category: str) -> str:
        """The baseline of a category.

        Raises:
            InputError: none is known.
        """
        name = self.baselines.get(category) or self.baselines.get("") or BASELINES.get(category)
        if name is None:
            raise InputError(f"arena-hard: the category {category} has no published baseline; give --baseline MODEL")
        return name

    @property
    def models(self) -> list[str]:
        """The judged models: all that are not the baseline of every category."""
        baselines = {self.baseline(question.category) for question in self.questions}
        return [answers.model for answers in self.answers if baselines != {answers.model}]

    def matches(self, model: str, judge: str) -> list[ArenaMatch]:
        """One model's matches; questions that it or the baseline did not answer are left out, and those where it is
        the baseline itself.

        Raises:
            InputError: no answers of a baseline.
        """
        by_model = {answers.model: answers.answers for answers in self.answers}
        matches = []
        for question in self.questions:
            baseline = self.baseline(question.category)
            if baseline == model:
                continue
            if baseline not in by_model:
                names = ", ".join(by_model)
                raise InputError(f"arena-hard: the answers of the baseline {baseline} are missing among {names}")
            texts = [by_model[name].get(question.id) for name in (model, baseline)]
            if texts[0] is not None and texts[1] is not None:
                pair = (texts[0].text, texts[1].text)
                matches.append(ArenaMatch(question, (model, baseline), pair, judge, self.rules, self.prompts))
        return matches

    def notes(self) -> list[str]:
        """Questions that are left out, because the model or the baseline did not answer them."""
        notes = []
        for answers in self.answers:
            missing = []
            for question in self.questions:
                meant = answers.model in self.models or answers.model == self.baseline(question.category)
                if meant and question.id not in answers.answers:
                    missing.append(str(question.id))
            if missing:
                shown = ", ".join(missing[:5])
                notes.append(f"{answers.model} lacks answers to {len(missing)} questions ({shown}); they are left out")
        return notes


async def judge_arena(study: ArenaStudy, judge: BenchJudge, folder: Path) -> Judged:
    """Judge what `<judge>/<model>.jsonl` in the folder lacks, model by model.

    Raises:
        InputError: no model beside the baselines, or as `ArenaStudy.matches`.
        RayalignError: as `judge_matches`.
    """
    if not study.models:
        raise InputError("arena-hard: every file of answers is a baseline's; give those of a model")
    judged = Judged()
    for model in study.models:
        path = folder / file_name(judge.name) / f"{file_name(model)}.jsonl"
        judged.add(await judge_matches(path, study.matches(model, judge.name), judge, _key))
    return judged


def with_facts(rows: Sequence[Row], study: ArenaStudy) -> list[Row]:
    """Judgments with the category and baseline that v0.1's rows do not name."""
    categories: dict[Id, str] = {question.id: question.category for question in study.questions}
    complete = []
    for row in rows:
        category = row.get("category") or categories[prompt_id(row)]
        complete.append({**row, "category": category, "baseline": row.get("baseline") or study.baseline(category)})
    return complete


def _game_row(game: Mapping[str, Any], form: Rules) -> Row:
    if form == "v0.1":
        return {"user_prompt": game["messages"][-1]["content"], "judgment": game["text"], "score": game["score"]}
    return {"score": game["score"], "judgment": {"answer": game["text"]}, "prompt": list(game["messages"])}


def _key(row: Row) -> Hashable:
    prompts = [_prompt_in(game) for game in row["games"]]
    return (prompt_id(row), row["model"], row["judge"], *prompts)


def _prompt_in(game: Any) -> str | None:
    """The judge's prompt of a game in a file; None where it was not played, so that it is played again."""
    if not isinstance(game, Mapping):
        return None
    if "user_prompt" in game:
        return str(game["user_prompt"])
    prompt = game.get("prompt")
    return str(prompt[-1]["content"]) if prompt else None


def _cost(replies: Sequence[Reply]) -> dict[str, float]:
    return {"price": sum(reply.price for reply in replies), "seconds": sum(reply.seconds for reply in replies)}
