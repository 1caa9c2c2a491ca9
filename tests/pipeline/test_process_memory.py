from __future__ import annotations

from collections.abc import Callable

import pytest

from rayalign.config import LoadedJob
from rayalign.pipeline import process_memory as parts
from rayalign.pipeline.kind import kinds_of
from rayalign.pipeline.plan import plan
from rayalign.pipeline.process_memory import process_memory

Study = Callable[..., LoadedJob]


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    here = parts.this_machine()
    monkeypatch.setattr(parts, "this_machine", lambda: type(here)(here.cpus, 0, here.memory, here.shared_memory))


def test_every_process_of_an_online_stage_counts(study: Study) -> None:
    job = study("rollout.engine=local").job
    # policy, critic, reference, reward and the preparer, and two engines
    expected = parts.DRIVER + parts.RAY + parts.FORKS + 5 * parts.WORKER + 2 * parts.LOCAL_ENGINE
    assert process_memory(job, kinds_of(job)["rl"]) == expected
    (stage,) = [stage for stage in plan(job).stages if stage.name == "rl"]
    assert stage.processes == expected
    assert stage.memory > expected + sum(role.memory or 0 for role in stage.roles if role.role == "policy")


def test_vllm_and_processes_of_their_own_take_more(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    local, vllm = (study(f"rollout.engine={engine}").job for engine in ("local", "vllm"))
    difference = process_memory(vllm, kinds_of(vllm)["rl"]) - process_memory(local, kinds_of(local)["rl"])
    assert difference == 2 * (parts.VLLM_ENGINE - parts.LOCAL_ENGINE)
    apart = study("rollout.engine=local", "cluster.address=ray://head:10001").job
    assert process_memory(apart, kinds_of(apart)["rl"]) > process_memory(local, kinds_of(local)["rl"])


def test_the_service_counts_from_the_first_stage_on(study: Study) -> None:
    job = study("rollout.engine=local").job
    without = process_memory(job, kinds_of(job)["sft"])
    assert without == parts.DRIVER + parts.RAY + parts.FORKS + parts.WORKER
    asking = study("rollout.engine=local", "stages.rl.reward=annotator:gold").job
    assert process_memory(asking, kinds_of(asking)["sft"]) == without + parts.SERVICE
    elsewhere = study("rollout.engine=local", "stages.rl.reward=annotator:gold", "annotator.url=http://judge:1").job
    assert process_memory(elsewhere, kinds_of(elsewhere)["sft"]) == without
