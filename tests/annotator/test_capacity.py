from __future__ import annotations

from typing import Any

import pytest

from rayalign.annotator.capacity import refuse_what_does_not_fit
from rayalign.config import ServiceConfig
from rayalign.errors import InputError

VLLM = {"kind": "vllm", "model": "m"}


def config(*judges: dict[str, Any], **settings: Any) -> ServiceConfig:
    annotators = {f"judge-{number}": {"judge": judge} for number, judge in enumerate(judges)}
    return ServiceConfig.model_validate({"annotators": annotators, **settings})


def test_two_vllm_judges_beside_the_front_need_three_cores() -> None:
    reason = "the service's front, judge-0, judge-1 together need 3 CPUs, and there are 2; lower `cpus`"
    with pytest.raises(InputError, match=reason):
        refuse_what_does_not_fit(config(VLLM, VLLM), {"CPU": 2.0})
    refuse_what_does_not_fit(config(VLLM, VLLM), {"CPU": 3.0})
    refuse_what_does_not_fit(config(VLLM, {**VLLM, "cpus": 0.5}, cpus=0.5), {"CPU": 2.0})


def test_replicas_count() -> None:
    with pytest.raises(InputError, match="need 3 CPUs"):
        refuse_what_does_not_fit(config({"kind": "reward_model", "model": "m", "replicas": 2}), {"CPU": 2.0})
    with pytest.raises(InputError, match="the service's front together need 4 CPUs"):
        refuse_what_does_not_fit(config({"kind": "rubric"}, replicas=4), {"CPU": 2.0})


def test_gpus_count_too() -> None:
    with pytest.raises(InputError, match="need 1 GPUs, and there are 0"):
        refuse_what_does_not_fit(config({**VLLM, "gpus": 1}), {"CPU": 8.0})
