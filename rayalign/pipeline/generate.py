"""The stage that draws answers of a model."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rayalign.config import DataConfig, Endpoint, GenerateStage, Job, RewardSource, SamplingConfig, merged_sampling
from rayalign.pipeline import best_of
from rayalign.pipeline.beams import beam_problems
from rayalign.pipeline.host_checks import host_problems
from rayalign.pipeline.kind import CANDIDATES, LANGUAGE_MODEL, SCORED, Output, Problem, Read, StageKind
from rayalign.pipeline.needs import AnnotatorRead, RoleNeed, generator
from rayalign.scoring.selection import extremes
from rayalign.statistics.best_of_n import best_of_n_kl
from rayalign.storage.records import write_jsonl

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext
    from rayalign.pipeline.drawing import Share
    from rayalign.types import Example

DRAWN = "drawn"
"""output of a stage that chooses: all candidates with their scores"""
EXTREMES = "extremes"
"""another one: of these, the best and the worst of each prompt"""
FINISHED = "finished_groups.jsonl"
"""what is drawn, until the outputs are written"""


class GenerateKind(StageKind[GenerateStage]):
    """Candidates for prompts; records.jsonl holds one example for each prompt."""

    def reads(self) -> Sequence[Read]:
        chosen_by = best_of.reads(self.stage.best_of, "best_of") if self.stage.best_of else ()
        drawn_by = [Read(key, model, (LANGUAGE_MODEL,)) for key, model in self._further_models()]
        earlier = [Read(key, stage, (CANDIDATES, SCORED)) for key, stage in self._earlier_answers()]
        return [Read("model", self.stage.model, (LANGUAGE_MODEL,)), *drawn_by, *earlier, *chosen_by]

    def _further_models(self) -> list[tuple[str, str]]:
        """Key and name of each source's own model."""
        sources = enumerate(self.stage.answer_sources)
        return [(f"sources.{i}.source", source.model) for i, source in sources if source.model and source.is_drawn]

    def _earlier_answers(self) -> list[tuple[str, str]]:
        """Key and name of each stage whose candidates are taken."""
        sources = enumerate(self.stage.answer_sources)
        return [(f"sources.{i}.examples", source.examples) for i, source in sources if source.examples]

    def outputs(self) -> dict[str, Output]:
        outputs = {"": Output(CANDIDATES, "records.jsonl")}
        if self._chooses:
            outputs[DRAWN] = Output(SCORED, "drawn.jsonl")
            outputs[EXTREMES] = Output(SCORED, "extremes.jsonl")
        return outputs

    def batch(self) -> str:
        count = self.stage.count
        if self.stage.answer_sources:
            parts = [f"{share.source.count} of {share.label}" for share in self._shares]
            return f"{' + '.join(parts)} for each prompt"
        if not self._chooses:
            return f"{count} candidates for each prompt"
        return f"{count} x the best of {self._candidates // count} candidates for each prompt"

    @property
    def _shares(self) -> list[Share]:
        from rayalign.pipeline.drawing import shares

        return shares(self.stage.answer_sources, self.stage.model)

    @property
    def _candidates(self) -> int:
        """Candidates of each prompt."""
        if self.stage.answer_sources:
            return sum(source.count for source in self.stage.answer_sources)
        choice = self.stage.best_of
        return self.stage.count * (choice.n if choice else 1)

    @property
    def _chooses(self) -> bool:
        """Whether candidates are scored and the best ones become answers."""
        return self.stage.best_of is not None and self._candidates > self._answers

    @property
    def _answers(self) -> int:
        """Answers to each prompt, where the best candidates are chosen."""
        return 1 if self.stage.answer_sources else self.stage.count

    def answers(self, rows: int) -> int:
        return rows * self._candidates

    @property
    def data(self) -> DataConfig:
        return self.stage.data

    @property
    def data_use(self) -> Use:
        return "prompts"

    @property
    def sampling(self) -> SamplingConfig:
        return self.stage.sampling

    @property
    def environment(self) -> str | None:
        return self.stage.environment

    def annotators(self) -> Sequence[AnnotatorRead]:
        return list(best_of.annotators(self.stage.best_of, "best_of")) if self.stage.best_of else []

    def problems(self) -> Iterator[Problem]:
        stage = self.stage
        yield from host_problems(stage.roles, runs=["reward"], sources=self._actor_sources)
        if stage.best_of:
            yield from best_of.problems(stage.best_of, "best_of")
        if stage.answer_sources and stage.best_of and stage.best_of.n not in (1, self._candidates):
            yield "best_of.n", f"the sources give {self._candidates} candidates; take that, or leave n out"
        if stage.answer_sources and stage.environment:
            yield "sources", "an environment is for candidates of one model; leave sources out"
        for place, source in enumerate(stage.answer_sources):
            if source.places > 1:
                yield f"sources.{place}", "set only one of source, examples and endpoint"
            if source.last and (source.is_drawn or source.endpoint):
                yield (
                    f"sources.{place}.last",
                    "is for answers that are there; leave it out where they are drawn",
                )
            sampling = merged_sampling(stage.sampling, source.sampling)
            if source.is_drawn:
                yield from beam_problems(source.count, sampling, f"sources.{place}")
            if source.endpoint:
                yield from endpoint_problems(source.endpoint, sampling, f"sources.{place}.endpoint")
        if not stage.answer_sources:
            yield from beam_problems(self._candidates, stage.sampling, "sampling")

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        return [generator(job, self.stage.model), *best_of.reward_role(self.stage, self._actor_sources)]

    @property
    def _actor_sources(self) -> Sequence[RewardSource]:
        """What `reward` actors ask for scores of the candidates."""
        if not self._chooses or self.stage.best_of is None:
            return ()
        return best_of.actor_sources(self.stage.best_of)

    def prompt_models(self) -> Sequence[str]:
        return list(dict.fromkeys([self.stage.model, *(model for _, model in self._further_models())]))

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        rows = dict(self._earlier_answers())
        return [(read.key, read.value) for read in self.reads() if read.key not in rows]

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        return asyncio.run(self._run(context, name))

    async def _run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.pipeline.best_of_figures import kl_interval, scores_of
        from rayalign.pipeline.drawing import draw, draw_sources, labels
        from rayalign.pipeline.finished_groups import FinishedGroups
        from rayalign.pipeline.scoring import choose

        stage, outputs, folder = self.stage, self.outputs(), context.stage_folder(name)
        sources = stage.answer_sources
        with closing(FinishedGroups(folder / FINISHED)) as finished:
            if sources:
                groups = await draw_sources(context, name, stage.model, stage, sources, finished=finished)
            else:
                groups = await draw(context, name, stage.model, stage, self._candidates, finished=finished)
        provenance = labels(sources, stage.model) if sources else stage.model
        chosen = await choose(context, name, stage, stage.model, stage.best_of, groups, provenance)
        write_jsonl(folder / outputs[""].path, chosen.answers)
        written = sum(len(group.trajectories) for group in groups)
        figures: dict[str, Any] = {"rows": len(chosen.answers), "candidates": written}
        if DRAWN in outputs:
            write_jsonl(folder / outputs[DRAWN].path, chosen.drawn)
            write_jsonl(folder / outputs[EXTREMES].path, filter(None, map(extremes, chosen.drawn)))
            figures["sample_reward"] = sample_reward([scores_of(example) for example in chosen.drawn])
            figures["without_score"] = len(groups) - len(chosen.answers)
            figures["candidates_without_score"] = _unscored(chosen.drawn)
            if not sources:  # those of several sources are no draws of one distribution
                n = self._candidates // self._answers
                figures["estimated_kl"] = best_of_n_kl(n)
                kl = kl_interval(chosen.drawn, n, seed=context.job.seed)
                if kl is not None:
                    figures["kl_by_scores"] = kl._asdict()
        finished.remove()
        return figures


def endpoint_problems(endpoint: Endpoint, sampling: SamplingConfig, key: str) -> Iterator[Problem]:
    """What is wrong with a model over HTTP, and with how it is to draw."""
    if not os.environ.get(endpoint.key_variable, "").strip():
        yield (
            f"{key}.key_variable",
            f"the environment variable {endpoint.key_variable} holds no key; set it (to any word, if the "
            "endpoint needs none), or name another",
        )
    if sampling.beams or sampling.top_k:
        yield key, "an endpoint takes neither beams nor top_k; leave them out of its sampling"


def _unscored(examples: Sequence[Example]) -> int:
    """Candidates without a score."""
    count = 0
    for example in examples:
        count += sum(candidate.score is None for candidate in example.candidates)
    return count


def sample_reward(groups: Sequence[Sequence[float]]) -> dict[str, float]:
    """Over prompts, the mean of their candidates' mean score, deviation and maximum (Yuan 2023, table 2).

    A prompt without a score does not count.
    """
    scored = [scores for scores in groups if scores]
    if not scored:
        return {}
    return {
        "mean": statistics.fmean(statistics.fmean(scores) for scores in scored),
        "deviation": statistics.fmean(statistics.pstdev(scores) for scores in scored),
        "maximum": statistics.fmean(max(scores) for scores in scored),
    }


KIND = GenerateKind
