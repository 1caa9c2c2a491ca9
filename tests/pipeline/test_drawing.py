"""Candidates of several sources for each prompt, over a pool that writes what its weights and the request say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rayalign.config import (
    MIXTURES,
    AnswerSource,
    BeamConfig,
    ClusterConfig,
    Endpoint,
    GenerateStage,
    Mixture,
    SamplingConfig,
    merged_sampling,
)
from rayalign.data.chat import load_tokenizer
from rayalign.data.rankings import rankings
from rayalign.errors import InputError, LostError
from rayalign.pipeline.drawing import draw, draw_sources, labels, shares
from rayalign.pipeline.finished_groups import FinishedGroups
from rayalign.pipeline.generate import FINISHED, GenerateKind
from rayalign.rollout.base import Finished, Request
from rayalign.storage.records import decode, read_jsonl, write_jsonl
from rayalign.types import Candidate, Example, Message, Prompt
from tests.annotator.stub_endpoint import Stub

EXAMPLES = [
    Example(Prompt("a", (Message("user", "first"),)), (Candidate("published one"), Candidate("published two"))),
    Example(Prompt("b", (Message("user", "second"),)), (Candidate("published three"),)),
]


class Pool:
    """Writes the name of the model that it holds, and fails for some keys."""

    def __init__(self, model: str, folder: str, fail: Sequence[str], stop_after: float = math.inf) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._model, self._fail, self._left = model, fail, stop_after
        self.requests: list[Request] = []
        self._queue: asyncio.Queue[Request] = asyncio.Queue()

    async def submit(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        for request in requests:
            self._queue.put_nowait(request)

    async def finished(self) -> AsyncGenerator[Finished, None]:
        while True:
            request = await self._queue.get()
            if not self._left:
                raise LostError("the engines are lost")
            self._left -= 1
            if request.key in self._fail:
                yield Finished(request.key, failure="the engine stumbled")
                continue
            text = f"{self._model} {request.draw}"
            tokens = (*self._tokenizer(text, add_special_tokens=False).input_ids, request.stop_ids[0])
            yield Finished(request.key, tokens, (0.0,) * len(tokens), ((0, 0),), "stop")


@dataclass
class Context:
    """A run as far as drawing sees it; the first prompt is too long for the model `the`."""

    folder: str
    earlier: Path
    fail: Sequence[str] = ()
    stop_after: float = math.inf
    """candidates after which the engines are lost"""
    seed: int = 0
    call_timeout: float = 60.0
    pools: list[Pool] = field(default_factory=list)
    loaded: str = ""

    @property
    def job(self) -> Any:
        cluster = ClusterConfig(call_timeout=self.call_timeout)
        return SimpleNamespace(seed=self.seed, cluster=cluster, rollout=SimpleNamespace(context=200))

    @property
    def inputs(self) -> Any:
        return SimpleNamespace(fitting=lambda name, model: EXAMPLES[1:] if model == "the" else EXAMPLES)

    def stage_folder(self, name: str) -> Path:
        return self.earlier.with_name(name)

    def model(self, reference: str) -> str:
        self.loaded = reference
        return self.folder

    def output(self, reference: str) -> Path:
        return self.earlier

    async def pool(self, folder: str) -> Pool:
        self.pools.append(Pool(self.loaded, folder, self.fail, self.stop_after))
        return self.pools[-1]


@pytest.fixture
def context(model: str, tmp_path: Path) -> Context:
    write_jsonl(tmp_path / "rows.jsonl", [Example(EXAMPLES[1].prompt, (Candidate("earlier"), Candidate("not taken")))])
    return Context(model, tmp_path / "rows.jsonl")


SOURCES = [
    AnswerSource(count=2),
    AnswerSource(source="the", count=1, sampling=SamplingConfig(temperature=0.5)),
    AnswerSource(source="dataset", count=2, name="people"),
    AnswerSource(count=1, sampling=SamplingConfig(temperature=0.25)),
    AnswerSource(examples="stage:before", count=1),
]


def drawn(context: Context, sources: Sequence[AnswerSource]) -> list[list[tuple[int, str]]]:
    stage = GenerateStage(kind="generate", model="please")
    groups = asyncio.run(draw_sources(context, "answers", "please", stage, sources))  # type: ignore[arg-type]
    return [[(t.index, t.text) for t in group.trajectories] for group in groups]


def test_each_source_gives_its_share_in_its_place(context: Context) -> None:
    first, second = drawn(context, SOURCES)
    written = [(0, "please 0"), (1, "please 1")]
    assert first == [*written, (3, "published one"), (4, "published two"), (5, "please 0")]
    assert second == [*written, (2, "the 0"), (3, "published three"), (5, "please 0"), (6, "earlier")]
    assert labels(SOURCES, "please") == ["please", "please", "the", "people", "people", "please", "stage:before"]
    own, old = context.pools  # a model's weights are loaded once for all its sources
    assert [request.sampling.temperature for request in own.requests] == [1.0, 1.0, 0.25] * 2
    assert [request.sampling.temperature for request in old.requests] == [0.5]


def test_seeds_of_all_candidates_differ(context: Context) -> None:
    drawn(context, SOURCES)
    seeds = [request.seed for pool in context.pools for request in pool.requests]
    assert len(set(seeds)) == len(seeds) == 7


def test_draws_from_other_places_are_independent(context: Context) -> None:
    stage = GenerateStage(kind="generate", model="please")
    for first, count in ((0, 1), (1, 4)):  # a model by itself, and the best of four of it
        asyncio.run(draw(context, "answers", "please", stage, count, first=first))  # type: ignore[arg-type]
    seeds = [request.seed for pool in context.pools for request in pool.requests]
    assert len(set(seeds)) == len(seeds) == 10


def test_a_temperature_ladder_draws_each_rung_by_its_own_temperature(context: Context) -> None:
    rungs = {"cold": 0.3, "warm": 0.7, "hot": 1.2}
    sources = [
        AnswerSource(count=2, sampling=SamplingConfig(temperature=temperature), name=name)
        for name, temperature in rungs.items()
    ]
    first, second = drawn(context, sources)
    assert [place for place, _ in first] == [place for place, _ in second] == [*range(6)]
    assert labels(sources, "please") == ["cold", "cold", "warm", "warm", "hot", "hot"]
    (pool,) = context.pools  # one model, loaded once
    assert [request.sampling.temperature for request in pool.requests] == [0.3, 0.3, 0.7, 0.7, 1.2, 1.2] * 2
    assert len({request.seed for request in pool.requests}) == 12


def test_the_ladder_of_the_documents_is_a_list_of_sources() -> None:
    text = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")
    shown = text.partition("A *temperature ladder*")[2].partition("    sources:")[2].partition("\n\n")[0]
    stage = {"kind": "generate", "model": "m", "sources": yaml.safe_load(shown)}
    sources = GenerateStage.model_validate(stage).answer_sources
    assert [source.sampling and source.sampling.temperature for source in sources] == [0.3, 0.7, 1.2]


def test_what_failed_is_absent(context: Context) -> None:
    context.fail = ["0/0", "0/1", "1/0", "1/1"]
    first, second = drawn(context, SOURCES[:3])
    assert first == [(3, "published one"), (4, "published two")]
    assert second == [(3, "published three")]


def test_answers_of_the_data_set_alone_need_no_engine(context: Context) -> None:
    assert drawn(context, MIXTURES["P"]) == [[(0, "published one"), (1, "published two")], [(0, "published three")]]
    assert not context.pools


def test_a_model_over_http_answers_each_prompt_with_its_own_seed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with Stub(script=[None, "400", None, None]) as stub:
        endpoint = Endpoint(model="elsewhere", base_url=stub.url, concurrency=1)
        first, second = drawn(
            context, [AnswerSource(endpoint=endpoint, count=2), AnswerSource(source="dataset", count=1)]
        )
    assert [place for place, _ in first] == [0, 2] and [place for place, _ in second] == [0, 1, 2]
    assert first[0][1].startswith("Output") and first[1][1] == "published one"
    assert [body["messages"][-1]["content"] for body in stub.bodies] == ["first", "second", "second"]
    assert len({body["seed"] for body in stub.bodies}) == 3
    assert not context.pools


def keys(context: Context) -> list[list[str]]:
    """The candidates that were requested of each pool."""
    return [[request.key for request in pool.requests] for pool in context.pools]


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_stage_draws_only_the_groups_that_are_missing(context: Context, torn: bool) -> None:
    stage = GenerateStage(kind="generate", model="please", count=2)
    folder = context.stage_folder("answers")
    whole, file = folder.with_name("whole") / "records.jsonl", folder / FINISHED
    GenerateKind(stage).run(context, "whole")  # type: ignore[arg-type]
    context.pools, context.stop_after = [], 3  # the first group, and half of the second one
    with pytest.raises(LostError):
        GenerateKind(stage).run(context, "answers")  # type: ignore[arg-type]
    assert len(list(read_jsonl(file))) == 1
    if torn:
        with file.open("a") as growing:
            growing.write('{"model": "please", "gr')
    context.stop_after = math.inf
    figures = GenerateKind(stage).run(context, "answers")  # type: ignore[arg-type]
    assert keys(context) == [["0/0", "0/1", "1/0", "1/1"], ["1/0", "1/1"]]
    assert (figures["rows"], figures["candidates"]) == (2, 4)
    assert (folder / "records.jsonl").read_bytes() == whole.read_bytes()
    assert [path.name for path in folder.iterdir()] == ["records.jsonl"]


def test_what_a_kill_leaves_of_several_sources_is_not_drawn_again(context: Context) -> None:
    stage = GenerateStage(kind="generate", model="please", sources=tuple(SOURCES))
    whole = drawn(context, SOURCES)
    context.pools = []
    file = context.stage_folder("answers") / FINISHED
    with closing(FinishedGroups(file)) as finished:
        asyncio.run(
            draw_sources(context, "answers", "please", stage, SOURCES, finished=finished)  # type: ignore[arg-type]
        )
    rows = file.read_bytes().splitlines(keepends=True)
    assert len(rows) == 3
    file.write_bytes(rows[1] + rows[2])  # not the first group of the first model
    context.pools = []
    GenerateKind(stage).run(context, "answers")  # type: ignore[arg-type]
    assert keys(context) == [["0/0", "0/1", "0/2"]]
    records = [decode(Example, row) for row in read_jsonl(context.stage_folder("answers") / "records.jsonl")]
    assert [[c.text for c in row.candidates] for row in records] == [[text for _, text in group] for group in whole]


def test_a_group_that_failed_is_drawn_again_and_takes_its_place(context: Context) -> None:
    stage = GenerateStage(kind="generate", model="please")
    ids = []
    for fail in (["0/0"], []):
        context.fail = fail
        with closing(FinishedGroups(context.stage_folder("answers") / FINISHED)) as finished:
            groups = asyncio.run(
                draw(context, "answers", "please", stage, 1, finished=finished)  # type: ignore[arg-type]
            )
        ids.append([group.prompt.id for group in groups])
    assert keys(context) == [["0/0", "1/0"], ["0/0"]]
    assert ids == [["b"], ["a", "b"]]


def test_without_a_key_an_endpoint_is_refused(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    endpoint = Endpoint(model="elsewhere", base_url="http://127.0.0.1:9/v1", key_variable="NO_KEY")
    with pytest.raises(InputError, match="NO_KEY holds no key"):
        drawn(context, [AnswerSource(endpoint=endpoint)])


def test_rrhfs_mixtures_have_four_answers_of_the_model_and_two_of_people() -> None:
    counts = {name: [share.source.count for share in shares(MIXTURES[name], "own")] for name in MIXTURES}
    assert counts == {"BP": [4, 2], "DP": [4, 2], "SP": [4, 2], "D": [4], "P": [2], "IP": [4, 2]}


def test_rrhfs_mixtures_are_drawn_as_published() -> None:
    diverse = BeamConfig(width=4, groups=4, penalty=1.0)
    stage = SamplingConfig(temperature=0.5, max_tokens=9)
    samplings = {name: merged_sampling(stage, MIXTURES[name][0].sampling) for name in ("BP", "DP", "SP", "D", "IP")}
    beams = {name: sampling.beams for name, sampling in samplings.items()}
    assert beams == {"BP": BeamConfig(width=4, groups=1), "DP": diverse, "SP": None, "D": diverse, "IP": diverse}
    temperatures = {name: sampling.temperature for name, sampling in samplings.items()}
    assert temperatures == {"BP": 1.0, "DP": 0.8, "SP": 1.0, "D": 0.8, "IP": 0.8}
    published = {name: [source.source for source in sources] for name, sources in MIXTURES.items()}
    own = [None, "dataset"]
    assert published == {"BP": own, "DP": own, "SP": own, "D": [None], "P": ["dataset"], "IP": own}


@pytest.mark.parametrize("name", ["BP", "DP", "SP", "D", "IP"])
def test_a_stages_sampling_changes_no_published_setting_but_the_length(name: Mixture) -> None:
    beams = BeamConfig(width=8, groups=2)
    stage = SamplingConfig(temperature=0.3, top_p=0.5, top_k=7, beams=beams, max_tokens=9)
    sampling = merged_sampling(stage, MIXTURES[name][0].sampling)
    assert sampling == merged_sampling(SamplingConfig(max_tokens=9), MIXTURES[name][0].sampling)


@pytest.mark.parametrize("name", ["IP-1", "IP-2", "IP-12"])
def test_a_round_of_ip_has_the_sampling_of_ip(name: str) -> None:
    stage = GenerateStage.model_validate({"kind": "generate", "model": "m", "sources": name})
    assert stage.answer_sources == MIXTURES["IP"] == MIXTURES["DP"]


@pytest.mark.parametrize("name", ["IP-0", "IP-", "IP-x", "DP-1", "IP2"])
def test_what_is_no_round_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="'BP', 'DP', 'SP', 'D', 'P' or 'IP'"):
        GenerateStage.model_validate({"kind": "generate", "model": "m", "sources": name})


def test_of_rows_of_rrhf_the_provided_answers_are_taken(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"query": "first", "responses": ["s1", "s2", "s3", "s4", "chosen", "rejected"], "scores": [0.0] * 6}
    monkeypatch.setitem(globals(), "EXAMPLES", [rankings(row, "a row")])
    assert drawn(context, MIXTURES["P"]) == [[(0, "chosen"), (1, "rejected")]]
    assert drawn(context, [AnswerSource(source="dataset", count=2)]) == [[(0, "s1"), (1, "s2")]]
    earlier = AnswerSource(examples="stage:before", count=1, last=True)
    monkeypatch.setitem(globals(), "EXAMPLES", [Example(Prompt("b", (Message("user", "second"),)), ())])
    assert drawn(context, [earlier]) == [[(0, "not taken")]]


def test_a_source_sets_some_keys_of_the_sampling() -> None:
    stage = SamplingConfig(max_tokens=9, temperature=0.7)
    assert merged_sampling(stage, None) == stage
    assert merged_sampling(stage, SamplingConfig(top_k=5)) == SamplingConfig(max_tokens=9, temperature=0.7, top_k=5)
