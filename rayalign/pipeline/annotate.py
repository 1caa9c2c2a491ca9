"""The stage that has answers compared: in this process, or by an annotator of the service."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rayalign.annotator.judges.utility import RubricJudge
from rayalign.annotator.judges.verdicts import pair_of
from rayalign.config import AnnotateStage, Job, RoleConfig
from rayalign.data.pairs import Question
from rayalign.errors import InputError
from rayalign.pipeline.host_checks import host_problems
from rayalign.pipeline.kind import CANDIDATES, COMPARISONS, PAIRWISE_MODEL, SCORED, Output, Problem, Read, StageKind
from rayalign.pipeline.needs import AnnotatorRead, RoleNeed
from rayalign.storage.records import decode, encode, read_jsonl, write_jsonl
from rayalign.types import Comparison, Example, Words

if TYPE_CHECKING:
    from rayalign.pipeline.context import RunContext

logger = logging.getLogger(__name__)


class AnnotateKind(StageKind[AnnotateStage]):
    """Verdicts on drawn pairs; records.jsonl holds the comparisons, those without a verdict too."""

    def reads(self) -> Sequence[Read]:
        reads = [Read("examples", self.stage.examples, (CANDIDATES, SCORED))]
        if self.stage.pairwise:
            reads.append(Read("pairwise", self.stage.pairwise, (PAIRWISE_MODEL,)))
        return reads

    def outputs(self) -> dict[str, Output]:
        return {"": Output(COMPARISONS, "records.jsonl")}

    def batch(self) -> str:
        return f"{self.stage.pairs} pairs of each group"

    def rows_made(self, rows: int) -> int:
        return rows * self.stage.pairs

    def annotators(self) -> Sequence[AnnotatorRead]:
        return [AnnotatorRead("annotator", self.stage.annotator)] if self.stage.annotator else []

    def problems(self) -> Iterator[Problem]:
        if self.stage.annotator and self.stage.pairwise:
            yield "pairwise", "the annotator compares these answers; leave one of the two out"
        if self.stage.flip is not None and not self.stage.annotator:
            yield "flip", "only verdicts of an `annotator` are flipped by it; set `judge.flip`, or leave it out"
        yield from host_problems(self.stage.roles, runs=["reward"])

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        stage = self.stage
        if not stage.pairwise:
            return []
        return [RoleNeed("reward", stage.pairwise, stage.roles.get("reward", RoleConfig()), stage.reader)]

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [("pairwise", self.stage.pairwise)] if self.stage.pairwise else []

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        stage = self.stage
        path = context.output(stage.examples)
        examples = [decode(Example, row, f"{path}") for row in read_jsonl(path)]
        pairs = list(_pairs(examples, stage.pairs, context.job.seed))
        if not pairs:
            raise InputError(
                f"{stage.examples} has no prompt with two different answers; raise its count or temperature"
            )
        verdicts = _verdicts(context, name, stage, pairs)
        judge = stage.pairwise or stage.annotator or stage.judge.kind
        comparisons = [
            Comparison(question.prompt, question.first, question.second, verdict, judge)
            for question, verdict in zip(pairs, verdicts, strict=True)
        ]
        write_jsonl(context.stage_folder(name) / self.outputs()[""].path, [encode(row) for row in comparisons])
        missing = sum(row.preference is None for row in comparisons)
        return {"rows": len(comparisons), "without_verdict": missing}


def _verdicts(
    context: RunContext, name: str, stage: AnnotateStage, pairs: Sequence[Question]
) -> Sequence[float | None]:
    """The preference on each pair, None without a verdict."""
    if stage.pairwise is not None:
        return _model_verdicts(context, name, stage, stage.pairwise, pairs)
    seed = context.job.seed
    if stage.annotator is None:
        last_answers = [(pair.prompt, pair.first.text, pair.second.text) for pair in pairs]
        return RubricJudge(stage.judge).compare(last_answers, seed=seed)
    questions = [pair_of(pair.prompt, pair.first, pair.second) for pair in pairs]
    from rayalign.annotator.asking.client import item_of
    from rayalign.annotator.asking.connect import announce

    with closing(context.annotator(stage.annotator)) as service:
        items = (item_of(*question) for question in questions)
        flip = stage.flip or 0.0
        announce(service, items, lambda line: logger.info("%s: %s", name, line), seed=seed, flip=flip)
        return service.compare(questions, seed=seed, flip=flip)


def _model_verdicts(
    context: RunContext, name: str, stage: AnnotateStage, model: str, pairs: Sequence[Question]
) -> list[float | None]:
    """A pairwise reward model's probabilities as preferences, from 1 (the first answer for sure) to 2."""
    from rayalign.pipeline.scoring import compare

    scores = asyncio.run(compare(context, name, model, stage.reader, pairs))
    reasons = Counter(score.reason for score in scores if score.value is None)
    for reason, count in reasons.items():
        logger.warning("%s: %d of %d pairs have no verdict (%s)", name, count, len(scores), reason)
    return [None if score.value is None else 2.0 - score.value for score in scores]


def _pairs(examples: Sequence[Example], count: int, seed: int) -> Iterator[Question]:
    """At most `count` pairs of different answers from each group, in a drawn order."""
    for example in examples:
        draw = random.Random(f"{seed}/{example.prompt.id}")
        options = [p for p in itertools.permutations(example.candidates, 2) if p[0].words != p[1].words]
        pairs: set[frozenset[Words]] = set()
        for first, second in draw.sample(options, len(options)):
            pair = frozenset((first.words, second.words))
            if pair not in pairs and len(pairs) < count:
                pairs.add(pair)
                yield Question(example.prompt, first, second)


KIND = AnnotateKind
