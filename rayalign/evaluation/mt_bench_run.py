"""One run of MT-Bench: which answers are judged with which prompt, and where the judgments are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from rayalign.errors import InputError
from rayalign.evaluation.bench_judge import BenchJudge
from rayalign.evaluation.bench_run import Judged, file_name, judge_matches
from rayalign.evaluation.mt_bench import Id
from rayalign.evaluation.mt_bench_files import Answers, Question, read_answers, references_for
from rayalign.evaluation.mt_bench_matches import PairMatch, SingleMatch, Turn, pair_key, single_key
from rayalign.evaluation.mt_bench_prompts import prompts_for

Mode = Literal["single", "pairwise-baseline", "pairwise-all"]
MODES: tuple[Mode, ...] = ("single", "pairwise-baseline", "pairwise-all")
BASELINE = "gpt-3.5-turbo"
"""the published one of pairwise-baseline"""
MAX_TOKENS = 2048
"""of a judgment, as published"""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that one run of the benchmark reads."""

    questions: Sequence[Question]
    answers: Sequence[Answers]
    mode: Mode = "single"
    baseline: str | None = None
    """of pairwise-baseline; None: the published one"""
    references: Path | None = None
    prompts: Path | None = None

    @property
    def kind(self) -> Literal["single", "pairwise"]:
        """The kind of its judgments."""
        return "single" if self.mode == "single" else "pairwise"

    @property
    def categories(self) -> dict[Id, str]:
        """The category of each question."""
        return {question.id: question.category for question in self.questions}

    @property
    def opponent(self) -> str | None:
        """The model that all others meet; None where there is none."""
        return (self.baseline or BASELINE) if self.mode == "pairwise-baseline" else None

    @property
    def models(self) -> list[str]:
        """The judged models; the baseline is not one of them."""
        return [answers.model for answers in self.answers if answers.model != self.opponent]

    def pairs(self) -> list[tuple[Answers, Answers]]:
        """The answers that are compared.

        Raises:
            InputError: fewer than two models, or no answers of the baseline.
        """
        if self.mode == "pairwise-all":
            pairs = list(combinations(self.answers, 2))
            if not pairs:
                raise InputError("mt-bench: pairwise-all needs the answers of two models")
            return pairs
        baselines = [answers for answers in self.answers if answers.model == self.opponent]
        if not baselines or not self.models:
            names = ", ".join(answers.model for answers in self.answers)
            raise InputError(f"mt-bench: needs the answers of the baseline {self.opponent} and of a model, not {names}")
        return [(answers, baselines[0]) for answers in self.answers if answers.model != self.opponent]

    def notes(self) -> list[str]:
        """Answers that are missing."""
        notes = [_missing(self.questions, answers) for answers in self.answers]
        return [note for note in notes if note]

    def matches(self, judge: str) -> list[SingleMatch] | list[PairMatch]:
        """All matches: first turns, then second turns; answers that are missing are left out.

        Raises:
            InputError: as `pairs`, a missing reference or judge prompt.
        """
        turns = list(self._turns())
        return self._singles(turns, judge) if self.mode == "single" else self._paired(turns, judge)

    def _singles(self, turns: Sequence[Turn], judge: str) -> list[SingleMatch]:
        matches = []
        for answers in self.answers:
            for turn in turns:
                if _has(answers, turn):
                    matches.append(SingleMatch(turn, answers.model, answers.turns[turn.question.id], judge))
        return matches

    def _paired(self, turns: Sequence[Turn], judge: str) -> list[PairMatch]:
        matches = []
        for first, second in self.pairs():
            for turn in turns:
                if _has(first, turn) and _has(second, turn):
                    texts = (first.turns[turn.question.id], second.turns[turn.question.id])
                    matches.append(PairMatch(turn, (first.model, second.model), texts, judge))
        return matches

    def _turns(self) -> Iterator[Turn]:
        references = references_for(self.questions, self.references)
        prompts = prompts_for(self.kind, self.prompts)
        for second in (False, True):
            for question in self.questions:
                if second and len(question.turns) < 2:
                    continue
                prompt = prompts.choose(reference=question.needs_reference, second_turn=second)
                yield Turn(question, references.get(question.id, ()), prompt, second)


def read_models(paths: Sequence[Path]) -> list[Answers]:
    """The answers of all files and folders.

    Raises:
        InputError: as `read_answers`, or two files of one model.
    """
    answers: list[Answers] = []
    for path in paths:
        answers += read_answers(path)
    names = [model.model for model in answers]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"mt-bench: several files hold the answers of {', '.join(repeated)}; give one of each model")
    return answers


async def judge_study(study: Study, judge: BenchJudge, folder: Path) -> Judged:
    """Judge what `<judge>_single.jsonl` or `<judge>_pair.jsonl` in the folder lacks.

    Raises:
        InputError: as `Study.matches`.
        RayalignError: as `judge_matches`.
    """
    matches = study.matches(judge.name)
    path = judgment_file(folder, judge.name, study.kind)
    return await judge_matches(path, matches, judge, single_key if study.kind == "single" else pair_key)


def judgment_file(folder: Path, judge: str, kind: Literal["single", "pairwise"]) -> Path:
    """Where the judgments of a judge are, as published."""
    return folder / f"{file_name(judge)}_{'single' if kind == 'single' else 'pair'}.jsonl"


def _has(answers: Answers, turn: Turn) -> bool:
    return len(answers.turns.get(turn.question.id, ())) >= turn.number


def _missing(questions: Sequence[Question], answers: Answers) -> str:
    """A note of the questions that a model did not answer in full; empty for none."""
    missing = []
    for question in questions:
        if len(answers.turns.get(question.id, ())) < len(question.turns):
            missing.append(str(question.id))
    if not missing:
        return ""
    return f"{answers.model} lacks answers to {len(missing)} questions ({', '.join(missing[:5])}); they are left out"
