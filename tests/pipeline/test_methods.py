from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayalign.config import LoadedJob
from rayalign.pipeline.generate import sample_reward
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.methods import method_rows

Study = Callable[..., LoadedJob]
RRHF = (
    "stages.draws.best_of={n: 4, reward: 'rules:numeric'}",
    "stages.draws.count=1",
    "stages.ranked={kind: train, algorithm: {name: rrhf}, model: stage:sft, examples: stage:draws/drawn}",
    "stages.test={models: {sft: stage:sft, rl: stage:rl, ranked: stage:ranked, other: someone/model}}",
)


def in_order(loaded: LoadedJob, name: str) -> Any:
    return kind_of(loaded.job.stages[name]).models_in_memory(loaded.job)


def metric(name: str, metric: str, mean: float) -> dict[str, Any]:
    return {"name": name, "metric": metric, "mean": mean, "low": None, "high": None, "n": 9}


def test_a_row_has_the_models_figures_its_samples_and_its_cost(study: Study) -> None:
    samples = {"mean": 1.5, "deviation": 0.5, "maximum": 2.0}
    results = [metric("sft", "gold_utility", 0.4), metric("rl", "gold_utility", 0.7), metric("rl", "perplexity", 3.0)]
    results += [metric("rl", "win_rate_against_sft", 60.0), metric("other", "gold_utility", 0.1)]
    outcomes = {
        "draws": {"seconds": 7.0, "sample_reward": samples},
        "sft": {"seconds": 5.0},
        "ranked": {"seconds": 11.0},
        "rl": {"seconds": 13.0, "sample_reward": samples | {"maximum": 9.0}},
        "test": {"results": results},
    }
    rows = method_rows(study(*RRHF).job, outcomes)
    learnt = {"samples_mean": 1.5, "samples_deviation": 0.5, "samples_maximum": 2.0}
    assert rows == [
        {"name": "sft", "models": 1, "training": 5.0, "gold_utility": 0.4},
        {"name": "rl", "models": 4, "training": 13.0, "gold_utility": 0.7, "perplexity": 3.0}
        | learnt
        | {"samples_maximum": 9.0},
        {"name": "ranked", "models": 1, "training": 11.0, "drawing": 7.0} | learnt,
        {"name": "other", "gold_utility": 0.1},
    ]


def test_what_has_not_finished_is_absent(study: Study) -> None:
    assert method_rows(study(*RRHF).job, {}) == [{"name": name} for name in ("sft", "rl", "ranked", "other")]


def test_models_in_memory_are_those_of_the_paper(study: Study) -> None:
    online = ("stages.rl.algorithm={name: rrhf, kl_coefficient: 0.01}", "stages.rl.learner.minibatch=24")
    op = (*online, "stages.rl.candidates=OP-8")
    assert in_order(study(), "rl") == 4  # PPO: policy, critic, reference, reward
    assert in_order(study(*RRHF), "ranked") == 1
    assert in_order(study(*op, "stages.rl.algorithm.kl_coefficient=0"), "rl") == 2
    assert in_order(study(*op), "rl") == 3
    assert in_order(study(*op, "stages.rl.reward='rules:numeric'"), "rl") == 2
    two = "stages.rl.reward=[{source: stage:rm}, {source: someone/scorer}]"
    assert in_order(study(*op, two), "rl") == 4
    assert in_order(study(), "rm") == 1


def test_a_prompt_without_a_score_is_no_sample() -> None:
    assert sample_reward([[1.0, 3.0], [5.0, 5.0], []]) == {"mean": 3.5, "deviation": 0.5, "maximum": 4.0}
    assert sample_reward([]) == {}
