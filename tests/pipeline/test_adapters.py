from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayalign.config import Job, LoraConfig, RolloutConfig
from rayalign.errors import InputError
from rayalign.pipeline.adapters import adapter_room
from rayalign.pipeline.kind import kind_of, kinds_of
from rayalign.rollout import choose_adapter

ONLINE = {
    "kind": "train",
    "algorithm": {"name": "ppo"},
    "model": "stage:base",
    "reward": "stage:rm",
    "candidates": [{"source": "live", "count": 2}],
}


def job(rollout: dict[str, Any] | None = None, **loras: dict[str, Any] | None) -> Job:
    """A job with one online stage for each adapter."""
    stages: dict[str, Any] = {"base": {"kind": "pretrain"}}
    stages["rm"] = {"kind": "train", "algorithm": {"name": "reward"}, "model": "stage:base"}
    for name, lora in loras.items():
        stages[name] = {**ONLINE, "learner": {"lora": lora}}
    return Job.model_validate({"name": "adapters", "rollout": rollout or {}, "stages": stages})


def models(lora: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    stage = {**ONLINE, "learner": {"lora": lora}, **changes}
    made = Job.model_validate({"name": "adapters", "stages": {"ppo": stage}})
    return kind_of(made.stages["ppo"]).models()  # type: ignore[attr-defined, no-any-return]


def test_a_policy_with_an_adapter_is_its_own_reference() -> None:
    assert models(None)["reference"] == "stage:base"
    assert "reference" not in models({"rank": 4})


def test_a_reference_that_the_job_names_is_still_started() -> None:
    assert models({"rank": 4}, reference="stage:sft")["reference"] == "stage:sft"


def test_engines_have_room_for_the_largest_adapter_and_all_targets() -> None:
    wide, narrow = {"rank": 4, "targets": ["q_proj", "v_proj"]}, {"rank": 16, "targets": ["o_proj"]}
    room = adapter_room(job({"adapter": "separate"}, one=wide, two=narrow, three=None), "vllm")
    assert room is not None
    assert (room.rank, room.targets) == (16, ("o_proj", "q_proj", "v_proj"))


@pytest.mark.parametrize("rollout", [{"adapter": "separate"}, {"adapter": "merged"}])
def test_without_an_adapter_no_room_is_made(rollout: dict[str, Any]) -> None:
    assert adapter_room(job(rollout, one=None), "vllm") is None


def test_merged_adapters_need_no_room() -> None:
    assert adapter_room(job({"adapter": "merged"}, one={"rank": 4}), "vllm") is None


@pytest.mark.parametrize(
    ("adapter", "gpus", "engine", "form", "reason"),
    [
        ("merged", 1, "vllm", "merged", "named by the job"),
        ("separate", 0, "vllm", "separate", "named by the job"),
        ("auto", 1, "vllm", "separate", "vLLM takes adapters"),
        ("auto", 0, "vllm", "merged", "vLLM on a CPU writes less than half as fast"),
        ("auto", 0, "local", "merged", "the local engine takes no adapters"),
    ],
)
def test_how_adapters_reach_the_engines(adapter: Any, gpus: int, engine: Any, form: str, reason: str) -> None:
    chosen, why = choose_adapter(RolloutConfig(adapter=adapter, gpus=gpus), engine)
    assert chosen == form
    assert why.startswith(reason)


def test_an_engine_that_takes_no_adapters_is_refused_one() -> None:
    with pytest.raises(InputError, match="rollout.adapter is separate, but the local engine takes no adapters"):
        choose_adapter(RolloutConfig(adapter="separate"), "local")


def test_the_dropout_of_an_adapter_is_zero() -> None:
    with pytest.raises(ValueError, match="dropout"):
        LoraConfig.model_validate({"dropout": 0.1})


def test_the_adapter_of_a_stage_can_be_merged_by_a_later_one(tmp_path: Path) -> None:
    merge = {"kind": "merge", "models": ["stage:one/adapter", "stage:two/adapter"], "weights": [0.5, 0.5]}
    made = job(one={"rank": 4}, two={"rank": 4}).model_dump()
    merging = Job.model_validate({**made, "output": str(tmp_path), "stages": {**made["stages"], "both": merge}})
    kinds = kinds_of(merging)
    assert kinds["one"].outputs()["adapter"].path == "model/adapter"
    assert "adapter" not in kinds["base"].outputs()
