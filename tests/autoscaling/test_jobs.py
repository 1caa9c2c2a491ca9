"""A job that is submitted to a head without workers: they come, the job runs, they go."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from tests.autoscaling.simulated import autoscaling_head
from tests.heads import Head, rayalign

pytestmark = [pytest.mark.autoscaling, pytest.mark.ray, pytest.mark.timeout(1800)]
JOB = """\
name: growing
stages:
  base: {kind: pretrain, data: {limit: 100}, learner: {minibatch: 50}, roles: {policy: {cpus: 2}}}
  sft:
    kind: train
    algorithm: {name: sft}
    model: stage:base
    data: {split: sft, limit: 64}
    learner: {minibatch: 32}
    roles: {policy: {actors: 2, cpus: 2}}
"""


def machines(head: Head) -> int:
    """How many machines but the head are alive."""
    with urlopen(Request(f"{head.url}/api/v0/nodes"), timeout=60) as reply:
        listed = json.load(reply)["data"]["result"]["result"]
    return sum(node["state"] == "ALIVE" and not node["is_head_node"] for node in listed)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def driver_memory(folder: Path) -> int:
    """The resident memory of a run that writes below the folder, on the head; its actors are elsewhere [bytes]."""
    size = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            is_driver = "run" in command and f"output={folder / 'runs'}" in command
            size += process.memory_info().rss if is_driver else 0
    return size


def test_machines_come_for_each_stage_and_go_when_the_job_has_ended(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    with autoscaling_head(tmp_path, most=3) as head:
        assert machines(head) == 0
        with ThreadPoolExecutor(1) as threads:
            submitted = threads.submit(rayalign, head, tmp_path, "submit", "job.yaml", f"output={tmp_path / 'runs'}")
            peak = driver = 0
            while not submitted.done():
                peak = max(peak, machines(head))
                driver = max(driver, driver_memory(tmp_path))
                time.sleep(1.0)
            done = submitted.result()
        assert done.returncode == 0, f"{done.stdout}\\n{done.stderr}"
        waits = re.findall(r"(\w+) waits for the cluster: needs (\d) CPU, has (\d) CPU, pending (.*)", done.stdout)
        assert [(stage, need) for stage, need, _, _ in dict.fromkeys(waits)][:1] == [("base", "2")]
        assert ("sft", "4") in [(stage, need) for stage, need, _, _ in waits], "the second stage gets more"
        deadline = time.monotonic() + 120
        while machines(head) and time.monotonic() < deadline:
            time.sleep(1.0)
        assert (peak, machines(head)) == (2, 0)
    summary = json.loads((tmp_path / "runs" / "growing" / "summary.json").read_text())
    assert [stage["status"] for stage in summary["stages"]] == ["finished", "finished"]
    assert list((tmp_path / "runs" / "growing" / "logs").glob("*.log")), "the logs of the machines that came"
    assert 0 < driver < summary["peak_memory_bytes"] - (1 << 28), "the memory of the machines that came is counted"


def test_a_job_that_cannot_be_had_ends_by_its_deadline(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    with autoscaling_head(tmp_path, most=1) as head:
        overrides = (f"output={tmp_path / 'runs'}", "cluster.scale_timeout=60", "stages.base.roles.policy.actors=2")
        begin = time.monotonic()
        done = rayalign(head, tmp_path, "submit", "job.yaml", *overrides)
        assert time.monotonic() - begin < 200
    assert done.returncode == 2, f"{done.stdout}\\n{done.stderr}"
    assert re.search(r"stages\.base\.roles: needs 4 CPU, has 2 CPU, pending .*: not there after 6\d s", done.stdout)
