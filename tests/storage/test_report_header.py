from __future__ import annotations

from typing import Any

from rayalign.storage.report_header import header

STAGES = [
    {"name": "sft", "status": "finished", "seconds": 61.0},
    {"name": "ppo", "status": "finished", "seconds": 3600.0},
]


def started(version: str) -> dict[str, Any]:
    machine = {"cores": 2, "memory_bytes": 24 << 30, "system": "Linux x86_64", "gpus": []}
    versions = {"rayalign": version, "torch": "2.13"}
    return {"time": 0.0, "event": "run_started", "versions": versions, "machine": machine, "commit": "0123abcd"}


def test_the_head_names_time_machine_versions_and_commit() -> None:
    page = header("study", {"seed": 3}, STAGES, {"peak_memory_bytes": 3 << 30}, [started("1.0")])
    assert "1:01:01 for all stages that finished" in page
    assert "2 cores, 24 GiB, Linux x86_64 · rayalign 1.0 · torch 2.13 · commit 0123abcd" in page


def test_a_run_that_went_on_elsewhere_names_each_environment_once() -> None:
    page = header("study", {}, STAGES, {}, [started("1.0"), started("1.0"), started("1.1")])
    assert page.count("rayalign 1.0") == 1 and page.count("rayalign 1.1") == 1
