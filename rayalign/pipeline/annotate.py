"""The stage that has answers compared: in this process, or by an annotator of the service."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rayalign.annotator.judges import RubricJudge
from rayalign.config import AnnotateStage
from rayalign.errors import InputError
from rayalign.pipeline.kind import CANDIDATES, COMPARISONS, SCORED, AnnotatorRead, Output, Read, StageKind
from rayalign.storage.records import decode, encode, read_jsonl, write_jsonl
from rayalign.types import Candidate, Comparison, Example, Prompt

if TYPE_CHECKING:
    from rayalign.pipeline.context import RunContext

logger = logging.getLogger(__name__)
Question = tuple[Prompt, str, str]


class AnnotateKind(StageKind[AnnotateStage]):
    """Verdicts on drawn pairs; records.jsonl holds the comparisons, those without a verdict too."""

    def reads(self) -> Sequence[Read]:
        return [Read("examples", self.stage.examples, (CANDIDATES, SCORED))]

    def outputs(self) -> dict[str, Output]:
        return {"": Output(COMPARISONS, "records.jsonl")}

    def batch(self) -> str:
        return f"{self.stage.pairs} pairs of each group"

    def annotators(self) -> Sequence[AnnotatorRead]:
        return [AnnotatorRead("annotator", self.stage.annotator)] if self.stage.annotator else []

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        stage = self.stage
        path = context.output(stage.examples)
        examples = [decode(Example, row, f"{path}") for row in read_jsonl(path)]
        pairs = list(_pairs(examples, stage.pairs, context.job.seed))
        if not pairs:
            raise InputError(
                f"{stage.examples} has no prompt with two different answers; raise its count or temperature"
            )
        questions = [(example.prompt, first.text, second.text) for example, first, second in pairs]
        verdicts = _verdicts(context, name, stage, questions)
        judge = stage.annotator or stage.judge.kind
        comparisons = [
            Comparison(example.prompt, first, second, verdict, judge)
            for (example, first, second), verdict in zip(pairs, verdicts, strict=True)
        ]
        write_jsonl(context.stage_folder(name) / self.outputs()[""].path, [encode(row) for row in comparisons])
        missing = sum(row.preference is None for row in comparisons)
        return {"rows": len(comparisons), "without_verdict": missing}


def _verdicts(
    context: RunContext, name: str, stage: AnnotateStage, questions: Sequence[Question]
) -> Sequence[float | None]:
    """The preference on each pair, None without a verdict."""
    seed = context.job.seed
    if stage.annotator is None:
        return RubricJudge(stage.judge).compare(questions, seed=seed)
    from rayalign.annotator.client import item_of
    from rayalign.annotator.connect import announce

    with closing(context.annotator(stage.annotator)) as service:
        items = (item_of(*question) for question in questions)
        announce(service, items, lambda line: logger.info("%s: %s", name, line), seed=seed)
        return service.compare(questions, seed=seed)


def _pairs(examples: Sequence[Example], count: int, seed: int) -> Iterator[tuple[Example, Candidate, Candidate]]:
    """At most `count` pairs of different answers from each group, in a drawn order."""
    for example in examples:
        draw = random.Random(f"{seed}/{example.prompt.id}")
        options = [p for p in itertools.permutations(example.candidates, 2) if p[0].text != p[1].text]
        pairs: set[frozenset[str]] = set()
        for first, second in draw.sample(options, len(options)):
            pair = frozenset((first.text, second.text))
            if pair not in pairs and len(pairs) < count:
                pairs.add(pair)
                yield example, first, second


KIND = AnnotateKind
