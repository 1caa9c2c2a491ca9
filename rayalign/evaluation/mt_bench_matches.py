"""MT-Bench's matches: one rating or two swapped games of a turn, and the rows that they make."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from rayalign.data.files import Row
from rayalign.evaluation.bench_judge import BenchJudge, Game, Reply
from rayalign.evaluation.mt_bench import rating, winner, winners
from rayalign.evaluation.mt_bench_files import Question, Turns
from rayalign.evaluation.mt_bench_prompts import JudgePrompt

_MARKS = ("[[A]]", "[[C]]", "[[B]]")


@dataclass(frozen=True, slots=True)
class Turn:
    """A question's first turn, or its second one with the first before it."""

    question: Question
    reference: Turns
    """answers to both turns; empty in categories without"""
    prompt: JudgePrompt
    second: bool

    @property
    def number(self) -> int:
        """1 or 2."""
        return 2 if self.second else 1

    def fields(self, answers: Mapping[str, Turns]) -> dict[str, str]:
        """The fields of the judge's prompt.

        Args:
            answers: `answer` -> the turns of the one, or `answer_a` and `answer_b` -> those of both.
        """
        fields = {f"ref_answer_{number}": text for number, text in enumerate(self.reference, start=1)}
        if not self.second:
            first_answers = {name: turns[0] for name, turns in answers.items()}
            return fields | {"question": self.question.turns[0]} | first_answers
        dialogues = {"question": self.question.turns, **answers}
        for name, turns in dialogues.items():
            fields |= {f"{name}_1": turns[0], f"{name}_2": turns[1]}
        return fields

    def text(self, turns: Turns) -> str:
        """The turns that are judged as one text."""
        return "\n\n".join(turns[: self.number])


@dataclass(frozen=True, slots=True)
class SingleMatch:
    """One answer to be rated."""

    turn: Turn
    model: str
    answer: Turns
    judge: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The judge's prompt."""
        return self.turn.prompt.messages(self.turn.fields({"answer": self.answer}))

    @property
    def key(self) -> Hashable:
        """As `Match.key`."""
        names = (self.model, self.judge, self.turn.prompt.name)
        return (self.turn.question.id, *names, self.turn.number, self.messages[-1]["content"])

    async def judged(self, judge: BenchJudge) -> Row:
        """A row of `<judge>_single.jsonl`."""
        messages = self.messages
        reply = await judge.reply(Game(tuple(messages)))
        return {
            "question_id": self.turn.question.id,
            "model": self.model,
            "judge": [self.judge, self.turn.prompt.name],
            "user_prompt": messages[-1]["content"],
            "judgment": reply.text,
            "score": rating(reply.text),
            "turn": self.turn.number,
            "tstamp": time.time(),
            **_cost(reply),
        }


@dataclass(frozen=True, slots=True)
class PairMatch:
    """Two answers to be compared, in both orders."""

    turn: Turn
    models: tuple[str, str]
    answers: tuple[Turns, Turns]
    judge: str

    @property
    def games(self) -> tuple[Game, Game]:
        """The first model as A, then as B."""
        first, second = self.answers
        return self._game(first, second), self._game(second, first)

    @property
    def key(self) -> Hashable:
        """As `Match.key`."""
        prompts = [game.messages[-1]["content"] for game in self.games]
        return (self.turn.question.id, *self.models, self.judge, self.turn.prompt.name, self.turn.number, *prompts)

    async def judged(self, judge: BenchJudge) -> Row:
        """A row of `<judge>_pair.jsonl`."""
        games = self.games
        replies = [await judge.reply(game) for game in games]
        first, second = (winner(reply.text, self.turn.prompt.output_format) for reply in replies)
        first_winner, second_winner = winners(first, second)
        return {
            "question_id": self.turn.question.id,
            "model_1": self.models[0],
            "model_2": self.models[1],
            "g1_winner": first_winner,
            "g2_winner": second_winner,
            "judge": [self.judge, self.turn.prompt.name],
            "g1_user_prompt": games[0].messages[-1]["content"],
            "g1_judgment": replies[0].text,
            "g2_user_prompt": games[1].messages[-1]["content"],
            "g2_judgment": replies[1].text,
            "turn": self.turn.number,
            "tstamp": time.time(),
            **_cost(*replies),
        }

    def _game(self, a: Turns, b: Turns) -> Game:
        messages = self.turn.prompt.messages(self.turn.fields({"answer_a": a, "answer_b": b}))
        question = self.turn.text(self.turn.question.turns)
        return Game(tuple(messages), (question, self.turn.text(a), self.turn.text(b)), _MARKS)


def single_key(row: Row) -> Hashable:
    """The key of a row of `<judge>_single.jsonl`."""
    return (row["question_id"], row["model"], *row["judge"], row.get("turn", 1), row.get("user_prompt"))


def pair_key(row: Row) -> Hashable:
    """The key of a row of `<judge>_pair.jsonl`."""
    prompts = (row.get("g1_user_prompt"), row.get("g2_user_prompt"))
    return (row["question_id"], row["model_1"], row["model_2"], *row["judge"], row.get("turn", 1), *prompts)


def _cost(*replies: Reply) -> Row:
    """Fields of ours beside the public ones: dollars, and the judge's seconds."""
    return {"price": sum(reply.price for reply in replies), "seconds": sum(reply.seconds for reply in replies)}
