"""The stages that make preference data: answers from a model, verdicts from a judge."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from statistics import mean
from typing import Any

from rayalign.annotator.client import item_of
from rayalign.annotator.connect import announce
from rayalign.annotator.judges import RubricJudge
from rayalign.config import AnnotateStage, GenerateStage, SamplingConfig
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.rendering import Renderer
from rayalign.errors import InputError
from rayalign.pipeline.context import RunContext
from rayalign.rollout.base import candidate_seed
from rayalign.storage.records import decode, encode, read_jsonl, write_jsonl
from rayalign.types import Candidate, Comparison, Example, Group, Prompt

logger = logging.getLogger(__name__)


async def generate(context: RunContext, name: str, stage: GenerateStage) -> dict[str, Any]:
    """Draw candidates; records.jsonl holds one example for each prompt."""
    examples = await draw(context, name, stage.model, stage.sampling, stage.count)
    write_jsonl(context.stage_folder(name) / "records.jsonl", [encode(e) for e in examples])
    return {"rows": len(examples)}


async def draw(context: RunContext, stage: str, reference: str, sampling: SamplingConfig, count: int) -> list[Example]:
    """`count` answers of a model to each prompt of a stage; a prompt whose generation failed is left out."""
    job = context.job
    model = context.model(reference)
    renderer = Renderer(model, job.rollout.context, sampling)
    prompts = context.inputs.fitting(stage, reference)
    pool = await context.pool(model)
    orders = []
    for slot, example in enumerate(prompts):
        seeds = tuple(candidate_seed(job.seed, 0, slot, example.prompt.id, index) for index in range(count))
        orders.append(GroupOrder(str(slot), example.prompt, seeds))
    assembler = GroupAssembler(pool, renderer, timeout=job.cluster.call_timeout)
    groups = [result.group for result in await assembler.generate(orders)]
    return [_answers(group, reference) for group in groups if group is not None]


def _answers(group: Group, source: str) -> Example:
    return Example(group.prompt, tuple(Candidate(t.text, source) for t in group.trajectories))


def annotate(context: RunContext, name: str, stage: AnnotateStage) -> dict[str, Any]:
    """Have the judge compare drawn pairs; records.jsonl holds the comparisons, those without a verdict too."""
    path = context.stage_folder(stage.examples.removeprefix("stage:")) / "records.jsonl"
    examples = [decode(Example, row, f"{path}") for row in read_jsonl(path)]
    pairs = list(_pairs(examples, stage.pairs, context.job.seed))
    if not pairs:
        raise InputError(f"{stage.examples} has no prompt with two different answers; raise its count or temperature")
    asked = [(e.prompt, a.text, b.text) for e, a, b in pairs]
    if stage.annotator is None:
        verdicts = RubricJudge(stage.judge).compare(asked, seed=context.job.seed)
    else:
        with closing(context.annotator(stage.annotator)) as service:
            seed = context.job.seed
            announce(
                service, (item_of(*pair) for pair in asked), lambda line: logger.info("%s: %s", name, line), seed=seed
            )
            verdicts = service.compare(asked, seed=context.job.seed)
    rows = [
        Comparison(e.prompt, a, b, verdict, stage.annotator or stage.judge.kind)
        for (e, a, b), verdict in zip(pairs, verdicts, strict=True)
    ]
    write_jsonl(context.stage_folder(name) / "records.jsonl", [encode(row) for row in rows])
    return {"rows": len(rows), "without_verdict": sum(row.preference is None for row in rows)}


def ranked(comparisons: Iterable[Comparison]) -> list[Example]:
    """The answers to each prompt as one group, each scored by the mean of its verdicts (Borda's count).

    So an answer is read once however many verdicts it has, and verdicts correct each other. Two that were never
    compared are ordered by what was said of them; those scored alike, and comparisons without a verdict, say nothing.
    """
    prompts: dict[str, Prompt] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for c in comparisons:
        if c.preference is None:
            continue
        prompts[c.prompt.id] = c.prompt
        answers = found.setdefault(c.prompt.id, {})
        answers.setdefault(c.first.text, []).append(2.0 - c.preference)
        answers.setdefault(c.second.text, []).append(c.preference - 1.0)
    return [
        Example(prompts[key], tuple(Candidate(text, score=mean(scores)) for text, scores in answers.items()))
        for key, answers in found.items()
    ]


def _pairs(examples: Sequence[Example], count: int, seed: int) -> Iterator[tuple[Example, Candidate, Candidate]]:
    """At most `count` pairs of different answers from each group, in a drawn order."""
    for example in examples:
        draw = random.Random(f"{seed}/{example.prompt.id}")
        options = [p for p in itertools.permutations(example.candidates, 2) if p[0].text != p[1].text]
        seen: set[frozenset[str]] = set()
        for first, second in draw.sample(options, len(options)):
            pair = frozenset((first.text, second.text))
            if pair not in seen and len(seen) < count:
                seen.add(pair)
                yield example, first, second
