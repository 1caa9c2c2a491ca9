"""The stage that evolves prompts: by the embedded world, by a model over the pool, and by one over HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.config import ClusterConfig, DataConfig, EvolveStage, LoadedJob
from rayalign.data import paddock
from rayalign.data.left_out import OncePerRun
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.pipeline.checks import check
from rayalign.pipeline.evolve import EvolveKind
from rayalign.pipeline.inputs import Inputs
from rayalign.storage.records import decode, read_jsonl, write_jsonl
from rayalign.types import Candidate, Example, Message, Prompt
from tests.annotator.stub_endpoint import Stub
from tests.pipeline.test_drawing import Pool

Study = Callable[..., LoadedJob]
BEST = "stages.draws.best_of={n: 4, reward: {rules: {kind: length}}}"
EVOLVE = "stages.evolved={kind: evolve, examples: stage:draws/drawn}"


class Context:
    """A run as far as the stage sees it."""

    def __init__(self, folder: Path, model: str = "") -> None:
        self.folder, self._model = folder, model
        self.pools: list[Pool] = []
        self.inputs = SimpleNamespace(report_left_out=OncePerRun())

    @property
    def job(self) -> Any:
        return SimpleNamespace(seed=0, cluster=ClusterConfig(), rollout=SimpleNamespace(context=400))

    def output(self, reference: str) -> Path:
        return self.folder / "drawn.jsonl"

    def stage_folder(self, name: str) -> Path:
        return self.folder / name

    def model(self, reference: str) -> str:
        return self._model

    async def pool(self, folder: str) -> Pool:
        self.pools.append(Pool("tell me the village of", folder, ()))
        return self.pools[-1]


@pytest.fixture
def context(tmp_path: Path, model: str) -> Context:
    rows = []
    for place, prompt in enumerate(paddock.prompts(0, "train", 40)):
        scores = (0.1 * (place % 7), 0.0, -0.5)
        rows.append(Example(prompt, tuple(Candidate("answer", score=score) for score in scores)))
    write_jsonl(tmp_path / "drawn.jsonl", rows)
    return Context(tmp_path, model)


def run(context: Context, **settings: object) -> dict[str, Any]:
    stage = EvolveStage.model_validate({"kind": "evolve", "examples": "stage:draws/drawn", **settings})
    return EvolveKind(stage).run(context, "evolved")  # type: ignore[arg-type]


def written(context: Context) -> list[Example]:
    path = context.stage_folder("evolved") / "records.jsonl"
    return [decode(Example, row) for row in read_jsonl(path)]


def test_the_worlds_own_operators_fill_the_stages_folder(context: Context) -> None:
    figures = run(context, evolutions=2, benchmarks={"split": "hard", "limit": 50})
    prompts = [example.prompt for example in written(context)]
    assert len(prompts) == figures["rows"] == 40
    assert figures["selected"] == 10
    assert figures["evolved"] + figures["generations"]["0"] == 40
    assert figures["difficulty"]["after"] > figures["difficulty"]["before"]
    lineages = list(read_jsonl(context.stage_folder("evolved") / "lineage.jsonl"))
    assert [row["id"] for row in lineages] == [prompt.id for prompt in prompts]
    evolved = [row for row in lineages if row["selected"] is not None]
    assert len(evolved) == figures["evolved"] > 8
    for row in evolved:
        assert row["metric"] == "gap"
        assert row["value"] == pytest.approx(max(row["rewards"]) + 0.5)
    assert all("task" in prompt.meta for prompt in prompts)


def test_a_second_round_goes_on_with_the_generations(context: Context, tmp_path: Path) -> None:
    run(context, evolutions=1, base_share=0.0)
    rows = [Example(e.prompt, (Candidate("x", score=1.0), Candidate("y", score=0.0))) for e in written(context)]
    write_jsonl(tmp_path / "drawn.jsonl", rows)
    second = Context(tmp_path / "second")
    second.output = lambda reference: tmp_path / "drawn.jsonl"  # type: ignore[method-assign]
    figures = run(second, evolutions=1, base_share=0.0, metric="uniform", fraction=1.0)
    assert set(figures["generations"]) >= {"1", "2"}


def test_a_model_over_the_pool_evolves_by_instruction(context: Context) -> None:
    sampling = {"max_tokens": 16}
    figures = run(
        context, model="stage:sft", sampling=sampling, operators=["constrain"], evolutions=1, gates={"ancestor": 0}
    )
    # the pool writes one text for all, so that the first one passes and the rest are duplicates
    assert figures["refused"] == {"duplicate": 9}
    new = [example.prompt for example in written(context) if "operator" in example.prompt.meta]
    assert [prompt.messages[-1].content for prompt in new] == ["tell me the village of 0"]
    assert "task" not in new[0].meta
    assert len(context.pools) == 1


def test_a_model_over_http_evolves_and_its_refusals_are_counted(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    with Stub(script=["400"]) as stub:  # which answers all others alike
        endpoint = {"model": "writer", "base_url": stub.url}
        figures = run(context, endpoint=endpoint, evolutions=1, operators=["deepen"])
    assert figures["refused"] == {"drift": 9, "absent": 1}
    assert figures["evolved"] == 0
    assert {example.prompt.id for example in written(context)} == {p.id for p in paddock.prompts(0, "train", 40)}


REQUESTS = ("describe the old mill", "describe the old bridge", "describe the long river")


def rate(context: Context, scores: Mapping[str, Sequence[float]]) -> None:
    """What the stage reads: the scores of each prompt's candidates."""
    rows = []
    for text, own in scores.items():
        prompt = Prompt(text, (Message("user", text),))
        rows.append(Example(prompt, tuple(Candidate("answer", score=score) for score in own)))
    write_jsonl(context.output(""), rows)


def test_neither_a_benchmark_prompt_nor_an_instruction_comes_out(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    rate(context, dict.fromkeys(REQUESTS, (1.0, 0.0)))
    benchmarks = {"split": "hard", "limit": 50}
    held_out = load_examples(DataConfig.model_validate(benchmarks), seed=0, use="prompts")[-1]
    replies = [
        held_out.prompt.messages[-1].content,
        "describe the original request in three words",
        "describe the long river and the long river",
    ]
    with Stub(says=lambda messages: replies.pop(0)) as stub:
        endpoint = {"model": "writer", "base_url": stub.url, "concurrency": 1}
        figures = run(context, endpoint=endpoint, evolutions=1, fraction=1.0, base_share=0.0, benchmarks=benchmarks)
    assert figures["refused"] == {"in a benchmark": 1, "the operator's instruction": 1}
    texts = {example.prompt.messages[-1].content for example in written(context)}
    assert texts == {*REQUESTS[1:], "describe the long river and the long river"}
    # Of 9 pairs of words before, 6 are distinct: "describe the" comes three times, "the old" twice.
    # Of 13 after, 7 are: "describe the", "the long" and "long river" come three times.
    assert figures["distinct"] == {"before": 6 / 9, "after": 7 / 13}


def with_a_further_word(messages: list[dict[str, str]]) -> str:
    """The reply of a model that lengthens what it is to evolve."""
    text = messages[-1]["content"].rpartition("<original>\n")[2].removesuffix("\n</original>")
    return f"{text} {'tomorrow' if 'gladly' in text else 'gladly'}"


def test_every_setting_of_the_creator_and_of_its_model_counts(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    mill, bridge, river = REQUESTS
    rate(context, {mill: (1.0, 3.0), bridge: (4.0, 4.0), river: (0.0, 2.0)})  # gaps 2, 0, 2; means 2, 4, 1
    creator = {"metric": "mean", "weights": "min-max", "floor": 0.5, "selection": "greedy", "fraction": 0.67}
    with Stub(says=with_a_further_word) as stub:
        model = {"endpoint": {"model": "writer", "base_url": stub.url}, "operators": ["reason"]}
        sampling = {"max_tokens": 17, "temperature": 0.25}
        figures = run(context, **creator, **model, sampling=sampling, evolutions=2, base_share=0)
    assert {(body["max_tokens"], body["temperature"]) for body in stub.bodies} == {(17, 0.25)}
    assert (figures["selected"], figures["attempts"], figures["refused"]) == (2, 4, {})
    assert (figures["rows"], figures["evolved"]) == (3, 3)  # no unchanged one
    lineages = list(read_jsonl(context.stage_folder("evolved") / "lineage.jsonl"))
    assert {(row["metric"], row["operator"]) for row in lineages} == {("mean", "reason")}
    assert {row["generation"] for row in lineages} == {1, 2}
    weights = {row["selected"]: (row["value"], row["weight"]) for row in lineages}
    assert weights == {
        mill: (2.0, pytest.approx(1 / 8 + 1 / 6)),  # less the least mean: 1, 3, 0; half of the weight is even
        bridge: (4.0, pytest.approx(3 / 8 + 1 / 6)),
    }


def test_a_prompt_that_fills_the_context_is_absent(context: Context) -> None:
    rate(context, {"describe the old mill": (1.0, 0.0), "describe " * 400: (1.0, 0.0)})
    sampling = {"max_tokens": 16, "temperature": 0.25}
    figures = run(
        context, model="stage:sft", sampling=sampling, evolutions=1, fraction=1.0, base_share=0, gates={"ancestor": 0}
    )
    assert figures["refused"] == {"absent": 1}
    assert figures["evolved"] == 1
    [request] = context.pools[0].requests
    assert request.sampling.max_tokens == 16
    assert request.sampling.temperature == 0.25


def test_the_world_goes_to_families_that_are_rare_in_the_pool(context: Context) -> None:
    facts = [prompt for prompt in paddock.prompts(0, "train", 200) if prompt.meta["family"] == "fact"]
    candidates = (Candidate("answer", score=1.0), Candidate("answer", score=0.0))
    write_jsonl(context.output(""), [Example(prompt, candidates) for prompt in facts[:40]])
    run(context, operators=["breadth"], evolutions=1, fraction=1.0, base_share=0)
    families = Counter(e.prompt.meta["family"] for e in written(context) if "operator" in e.prompt.meta)
    assert families.total() > 30
    assert families["fact"] == 0  # a sixth, if all families were alike


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("operators=[reason]", "stages.evolved.operators: the embedded world has no reason, only constrain, deepen, b"),
        (
            "examples=stage:draws",
            "stages.evolved.examples: stage:draws makes candidates; expected a stage that makes s",
        ),
        ("benchmarks={format: prompts}", "stages.evolved.benchmarks: data format 'prompts' reads files"),
        ("benchmarks={path: stage:draws}", "stages.evolved.benchmarks.path: a stage gives prompts alone"),
        ("model=stage:rm", "stages.evolved.model: stage:rm makes a reward model; expected a stage"),
    ],
)
def test_what_is_wrong_with_the_stage_is_said_before_a_run(study: Study, setting: str, message: str) -> None:
    check(study(BEST, EVOLVE))
    with pytest.raises(InputError) as error:
        check(study(BEST, EVOLVE, f"stages.evolved.{setting}"))
    assert message in str(error.value)


def test_later_stages_draw_for_its_prompts(study: Study) -> None:
    less = [f"stages.{name}.data.limit=50" for name in ("sft", "draws", "rl", "test")]
    more = "stages.again={kind: generate, model: stage:sft, data: {path: stage:evolved}}"
    loaded = study(BEST, EVOLVE, more, "stages.rl.reward=annotator:gold", *less)
    check(loaded)
    Inputs(loaded).check()
    assert json.loads(json.dumps(loaded.job.stages["again"].model_dump()))["data"]["path"] == "stage:evolved"
