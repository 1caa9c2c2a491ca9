"""The stage that selects the prompts that teach most, and evolves new ones from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rayalign.config import DataConfig, EvolveStage, Job, SamplingConfig
from rayalign.data.paddock.evolve import OPERATORS as EMBEDDED
from rayalign.pipeline.generate import endpoint_problems
from rayalign.pipeline.kind import LANGUAGE_MODEL, PROMPTS, SCORED, Output, Problem, Read, StageKind
from rayalign.pipeline.needs import RoleNeed, generator
from rayalign.storage.records import decode, read_jsonl, write_jsonl
from rayalign.types import Example, Prompt

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.evolve.evolvers import Evolver
    from rayalign.evolve.gates import Gates
    from rayalign.pipeline.context import RunContext

logger = logging.getLogger(__name__)
LINEAGE = "lineage.jsonl"
"""beside the prompts: where each of them comes from"""
ATTEMPTS = "attempts.jsonl"
"""all that the evolver gave, refused or not"""


class EvolveKind(StageKind[EvolveStage]):
    """New prompts; records.jsonl holds as many as it read, some of them unchanged."""

    def reads(self) -> Sequence[Read]:
        reads = [Read("examples", self.stage.examples, (SCORED,))]
        return [*reads, Read("model", self.stage.model, (LANGUAGE_MODEL,))] if self.stage.model else reads

    def outputs(self) -> dict[str, Output]:
        return {"": Output(PROMPTS, "records.jsonl")}

    def batch(self) -> str:
        stage = self.stage
        return f"{stage.fraction:.0%} of the prompts by {stage.metric}, {stage.evolutions} evolutions of each"

    def further_data(self) -> Sequence[tuple[str, DataConfig, Use]]:
        return [("benchmarks", self.stage.benchmarks, "prompts")] if self.stage.benchmarks else []

    @property
    def sampling(self) -> SamplingConfig | None:
        return self.stage.sampling if self.stage.model else None

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        return [generator(job, self.stage.model)] if self.stage.model else []

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [("model", self.stage.model)] if self.stage.model else []

    def problems(self) -> Iterator[Problem]:
        stage = self.stage
        if stage.model and stage.endpoint:
            yield "endpoint", "set only one of model and endpoint"
        if stage.endpoint:
            yield from endpoint_problems(stage.endpoint, stage.sampling, "endpoint")
        if stage.sampling.beams:
            yield "sampling.beams", "an evolver draws its prompts; leave beams out"
        unfit = [] if stage.model or stage.endpoint else [o for o in stage.operators if o not in EMBEDDED]
        if unfit:
            yield "operators", f"the embedded world has no {unfit[0]}, only {', '.join(EMBEDDED)}; or name a model"

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        return asyncio.run(self._run(context, name))

    async def _run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.evolve.chains import Attempts, evolve_chains
        from rayalign.evolve.creator import mixture, rated, selected
        from rayalign.evolve.figures import figures, lineages

        stage, seed, folder = self.stage, context.job.seed, context.stage_folder(name)
        path = context.output(stage.examples)
        prompts = rated([decode(Example, row, str(path)) for row in read_jsonl(path)], stage)
        starts = selected(prompts, stage, seed)
        base = [prompt.prompt for prompt in prompts]
        evolver, gates = self._evolver(context, base), self._gates(base, context)
        with closing(Attempts(folder / ATTEMPTS)) as attempts:
            outcome = await evolve_chains(starts, evolver, gates, attempts, steps=stage.evolutions, seed=seed)
        written = mixture(base, [evolved.prompt for evolved in outcome.evolved], stage.base_share, seed)
        write_jsonl(folder / LINEAGE, lineages(written, outcome, stage.metric))
        write_jsonl(folder / self.outputs()[""].path, [Example(prompt, ()) for prompt in written])
        logger.info(
            "%s: %d of %d attempts gave a new prompt; refused: %s",
            name,
            len(outcome.evolved),
            outcome.attempts,
            ", ".join(f"{reason} {count}" for reason, count in outcome.refused.most_common()) or "none",
        )
        return figures(prompts, starts, outcome, written)

    def _gates(self, pool: Sequence[Prompt], context: RunContext) -> Gates:
        from rayalign.data.readers import load_examples
        from rayalign.evolve.gates import Gates
        from rayalign.evolve.wordings import MARKS

        benchmarks = self.stage.benchmarks
        rows: list[Example] = []
        if benchmarks:
            report = context.inputs.report_left_out
            rows = load_examples(benchmarks, seed=context.job.seed, use="prompts", report=report)
        return Gates(self.stage.gates, pool, [example.prompt for example in rows], MARKS)

    def _evolver(self, context: RunContext, pool: Sequence[Prompt]) -> Evolver:
        from rayalign.evolve.evolvers import EmbeddedEvolver, WrittenEvolver
        from rayalign.pipeline.evolving import by_endpoint, by_engines

        stage = self.stage
        if stage.model:
            return WrittenEvolver(stage.operators, by_engines(context, stage.model, stage.sampling), stage.topic)
        if stage.endpoint:
            return WrittenEvolver(stage.operators, by_endpoint(stage.endpoint, stage.sampling), stage.topic)
        return EmbeddedEvolver(stage.operators, pool)


KIND = EvolveKind
