"""What a finished run has left behind."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rayalign.algorithms.base import load
from rayalign.coordinator import iteration
from rayalign.models import metrics as learner
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl
from rayalign.weights import probe
from tests.e2e.runs import ADAPTED, ITERATIONS, PROMPTS, STAGES, Run, accounts

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1800)]
INTERVAL = {"low", "high", "n"}


def test_the_summary_has_every_table(finished: Run) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary.keys() == {"results", "comparisons", "methods", "stages", "peak_memory_bytes"}
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [(name, "finished") for name in STAGES]
    assert all(0 <= s["fixed_seconds"] <= s["seconds"] for s in summary["stages"])
    assert summary["peak_memory_bytes"] > 1 << 28
    results = {(r["name"], r["metric"]): r for r in summary["results"]}
    assert all(r.keys() - {"note"} == {"name", "metric", "mean", *INTERVAL} for r in results.values())
    assert {name for name, metric in results if metric == "gold_utility"} == {
        *("sft", "ppo", "late", "rrhf", "constant", "oracle")
    }
    assert results["oracle", "gold_utility"]["mean"] > 0.9
    assert {name for name, metric in results if metric == "perplexity"} == {"sft", "ppo", "late", "rrhf"}
    assert all(1.0 < r["mean"] < 1000.0 for (_, metric), r in results.items() if metric == "perplexity")
    assert {(c["a"], c["b"], c["n"]) for c in summary["comparisons"]} == {(m, "sft", 32) for m in ITERATIONS}
    assert all(c.keys() == {"a", "b", "metric", "mean_difference", *INTERVAL} for c in summary["comparisons"])


def test_preferences_and_win_rates_come_from_the_service(finished: Run) -> None:
    labels = list(read_jsonl(finished.folder / "stages" / "labels" / "records.jsonl"))
    assert labels and {row["annotator"] for row in labels} == {"careful"}
    results = {r["name"]: r for r in json.loads((finished.folder / "summary.json").read_text())["results"]
               if r["metric"] == "win_rate_by_pool_against_sft"}  # fmt: skip
    assert set(results) == set(ITERATIONS) and all(0 < r["mean"] < 100 and r["n"] > 24 for r in results.values())
    assert (finished.folder / "annotator" / "verdicts.db").is_file()


def test_the_report_shows_models_stages_and_answers(finished: Run) -> None:
    text = (finished.folder / "report.html").read_text()
    for word in (*STAGES, "oracle", "reward/mean", "<b>gold/utility</b>"):
        assert word in text


def test_an_evaluation_keeps_every_answer_with_its_value(finished: Run) -> None:
    rows = list(read_jsonl(finished.folder / "stages" / "final" / "records.jsonl"))
    assert len(rows) == 6 * 32
    keys = {"model", "prompt_id", "messages", "prompt", "answer", "value", "meta"}
    assert all(row.keys() == keys for row in rows)
    by_model: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_model[row["model"]].add(row["prompt_id"])
    assert len({frozenset(prompts) for prompts in by_model.values()}) == 1, "not the same prompts for all"


@pytest.mark.parametrize("stage", ITERATIONS)
def test_every_group_is_consumed_by_its_iteration_and_once(finished: Run, stage: str) -> None:
    account = accounts(finished, stage)
    account.check(ended=True)
    assert account.consumed.total() == PROMPTS * ITERATIONS[stage]
    done = json.loads((finished.folder / "stages" / stage / "done.json").read_text())
    assert done["groups_consumed"] == PROMPTS * ITERATIONS[stage]
    for entry in read_jsonl(finished.folder / "journal" / f"{stage}.jsonl"):
        if entry["kind"] == "consumed":
            assert len(entry["groups"]) == PROMPTS
            assert {int(group[:5]) for group in entry["groups"]} == {entry["iteration"]}


def test_the_tail_of_each_iteration_is_dropped_and_counted(finished: Run) -> None:
    """One prompt more is written than an iteration has."""
    done = json.loads((finished.folder / "stages" / "rrhf" / "done.json").read_text())
    assert done["groups_dropped"] == {"the iteration was whole without it": ITERATIONS["rrhf"]}
    rows = read_metrics(finished.folder / "stages" / "rrhf" / "metrics.jsonl")
    assert [row["metrics"]["rollout/dropped"] for row in rows] == [1] * ITERATIONS["rrhf"]


@pytest.mark.parametrize("stage", ITERATIONS)
def test_the_phases_of_an_iteration_add_up(finished: Run, stage: str) -> None:
    rows = read_metrics(finished.folder / "stages" / stage / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(ITERATIONS[stage]))
    beyond = []
    for row in rows:
        phases = {n.removeprefix("phase/"): s for n, s in row["metrics"].items() if n.startswith("phase/")}
        total, rest = phases.pop("total"), phases["unattributed"]
        assert sum(phases.values()) == pytest.approx(total, abs=1e-6)
        beyond.append(rest - 0.02 * total)
        assert {"generate", "evaluate", "prepare", "update", "publish"} <= phases.keys()
    assert median_low(beyond) < 0.02, "a machine that stands still does so between two phases too, but not each time"


@pytest.mark.parametrize(("stage", "algorithm"), [("ppo", "ppo"), ("rrhf", "rrhf")])
def test_every_metric_of_an_iteration_is_one_that_a_guard_may_watch(finished: Run, stage: str, algorithm: str) -> None:
    rows = read_metrics(finished.folder / "stages" / stage / "metrics.jsonl")
    kind = load({"name": algorithm})
    declared = kind.metrics | learner.of_roles(kind.trains) | iteration.METRICS
    assert rows[-1]["metrics"].keys() <= declared


def test_scoring_does_not_wait_for_the_last_answer(finished: Run) -> None:
    """Which iterations have answers of different lengths is chance; that one of them has is not."""
    last: dict[tuple[str, str], int] = {}
    first: dict[tuple[str, str], int] = {}
    for at, row in enumerate(finished.events()):
        if row["event"] == "generation_finished":
            last[row["stage"], row["group"][:5]] = at
        for group in row["groups"] if row["event"] == "score_started" else ():
            first.setdefault((row["stage"], group[:5]), at)
    assert first.keys() == last.keys()
    assert len(first) == sum(ITERATIONS.values())
    early = [place for place in first if first[place] < last[place]]
    assert {stage for stage, _ in early} >= {"ppo", "late"}


def test_every_role_is_a_process_of_its_own(finished: Run) -> None:
    pids: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for row in finished.events("actor_started"):
        pids[row["stage"]][row["role"]].add(row["actor_pid"])
    # They begin to start beside the stage before theirs, which may still be running once they have.
    (generators,) = [roles.pop("generator") for roles in pids.values() if "generator" in roles]
    assert {stage: set(roles) for stage, roles in pids.items() if roles} == {
        "base": {"train:policy"},
        "sft": {"train:policy"},
        "rm": {"train:reward"},
        "ppo": {"policy", "critic", "reference", "reward", "preparer"},
        # Its policy trains an adapter, so that the reference is the policy itself without it.
        ADAPTED: {"policy", "critic", "reward", "preparer"},
        "rrhf": {"policy", "reward", "preparer"},
        "final": {"reference"},
    }
    assert len(generators) == 2
    for roles in pids.values():
        every = [pid for found in roles.values() for pid in found]
        assert len({*every, *generators}) == len(every) + 2
    driver = finished.events("stage_started")[0]["pid"]
    assert not any(driver in found for roles in pids.values() for found in roles.values())


def test_no_tensor_reaches_the_driver(finished: Run) -> None:
    received = finished.events("received")
    assert sum(row["answers"] for row in received) > 100
    assert not any(row["tensor"] or row["bytes"] for row in received)


def test_every_version_is_published_once_and_proven(finished: Run) -> None:
    published = finished.events("published")
    for stage, iterations in ITERATIONS.items():
        rows = [row for row in published if row["stage"] == stage]
        assert [row["version"] for row in rows] == list(range(iterations + 1))
        assert all(0.0 <= row["probe_gap"] < 1e-3 and row["seconds"] > 0 and row["size"] > 1e6 for row in rows)


def answers(finished: Run, stage: str) -> list[dict[str, Any]]:
    rows = read_jsonl(finished.folder / "journal" / f"{stage}.jsonl")
    return [row["group"] for row in rows if row["kind"] == "finished"]


@pytest.mark.parametrize(("stage", "most"), [("ppo", 0), ("late", 1), ("rrhf", 0)])
def test_staleness_stays_within_its_bound_and_is_used(finished: Run, stage: str, most: int) -> None:
    gaps = set()
    for group in answers(finished, stage):
        versions = {s["version"] for t in group["trajectories"] for s in t["segments"] if s["author"] == "policy"}
        gaps |= {group["iteration"] - version for version in versions}
    assert max(gaps) == most
    assert min(gaps) >= 0


def test_with_staleness_an_iteration_is_generated_while_the_one_before_is_trained_on(finished: Run) -> None:
    rows = [row for row in finished.events() if row["stage"] == "late"]
    published = {row["version"]: at for at, row in enumerate(rows) if row["event"] == "published"}
    begun: dict[int, int] = {}
    for at, row in enumerate(rows):
        if row["event"] == "generation_finished":
            begun.setdefault(int(row["group"][:5]), at)
    overlapping = [i for i in range(1, ITERATIONS["late"]) if begun[i] < published[i]]
    assert len(overlapping) >= 3
    metrics = [row["metrics"] for row in read_metrics(finished.folder / "stages" / "late" / "metrics.jsonl")]
    assert [row["rollout/staleness"] for row in metrics][0] == 0
    assert max(row["rollout/staleness"] for row in metrics) == 1
    # one version apart the two log-probs differ, and the importance weights are no longer all one
    assert max(row["rollout/mismatch_max"] for row in metrics) > 1e-3
    assert 0.0 < min(row["rollout/ess"] for row in metrics) < 1.0


def test_models_are_plain_folders(finished: Run) -> None:
    for stage in ("base", "sft", "ppo", "late", "rrhf"):
        folder = finished.folder / "stages" / stage / "model"
        model = AutoModelForCausalLM.from_pretrained(folder)
        proof = probe.load(folder)
        probe.check(proof, plain_logprobs(model, proof.token_ids))
        assert AutoTokenizer.from_pretrained(folder).chat_template
    for scalar in ("rm/model", "ppo/critic"):
        folder = finished.folder / "stages" / scalar
        assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 1
        assert AutoTokenizer.from_pretrained(folder).chat_template


def plain_logprobs(model: Any, token_ids: tuple[tuple[int, ...], ...]) -> list[list[float]]:
    import torch

    ids_BT = torch.tensor(token_ids)
    with torch.no_grad():
        logprobs_BTV = model(ids_BT).logits[:, :-1].log_softmax(-1)
    rows: list[list[float]] = logprobs_BTV.gather(-1, ids_BT[:, 1:, None])[:, :, 0].tolist()
    return rows


def test_training_changed_the_models(finished: Run) -> None:
    chain = ["base", "sft", "ppo", "late", "rrhf"]
    files = [(finished.folder / "stages" / stage / "model" / "model.safetensors").read_bytes() for stage in chain]
    assert all(one != other for one, other in pairwise(files))


def test_a_second_run_does_nothing(finished: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in _outputs(finished.folder)}
    summary = json.loads((finished.folder / "summary.json").read_text())
    ending = finished.finish()
    assert ending.code == 0
    assert [line for line in ending.text.splitlines() if "finished before" in line] == [
        f"{s}: finished before" for s in STAGES
    ]
    assert {path: path.stat().st_mtime_ns for path in _outputs(finished.folder)} == before
    assert json.loads((finished.folder / "summary.json").read_text()) == summary


def _outputs(folder: Path) -> list[Path]:
    return [*(p for p in (folder / "stages").rglob("*") if p.is_file()), folder / "events.jsonl"]


def test_a_second_objective_is_trained_on_and_the_average_is_kept(finished: Run) -> None:
    folder = finished.folder / "stages" / ADAPTED
    rows = [row["metrics"] for row in read_metrics(folder / "metrics.jsonl")]
    assert all(0.0 < row["mixture/sft"] < 10.0 for row in rows)
    average, last = (AutoModelForCausalLM.from_pretrained(folder / path) for path in ("model/ema", "model"))
    assert any(not torch.equal(a, b) for a, b in zip(average.parameters(), last.parameters(), strict=True))


def test_a_stage_with_adapters_keeps_the_merged_model_and_the_adapter(finished: Run) -> None:
    """The reference is the policy without its adapter; the model is an ordinary folder, which later stages read."""
    rows = read_metrics(finished.folder / "stages" / ADAPTED / "metrics.jsonl")
    assert any(row["metrics"].get("kl/reference", 0.0) > 0.0 for row in rows)
    folder = finished.folder / "stages" / ADAPTED / "model"
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 4)
    assert config["base_model_name_or_path"] == str(finished.folder / "stages" / "sft" / "model")
    assert AutoModelForCausalLM.from_pretrained(folder)
