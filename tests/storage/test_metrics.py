from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayalign.config import TrackingConfig
from rayalign.storage.console import ConsoleSink
from rayalign.storage.dialogues import answer_text
from rayalign.storage.metrics import JsonlSink, SampleTable, last_row, open_sinks, read_metrics, reduce
from rayalign.storage.records import read_jsonl
from rayalign.types import Group, Message, Metric, Prompt, Segment, Trajectory


def test_reduce_merges_each_name_in_its_own_way() -> None:
    first = {"a/mean": Metric(1.0, 3.0), "a/max": Metric(2.0, reduction="max"), "a/sum": Metric(1.0, reduction="sum")}
    second = {"a/mean": Metric(5.0, 1.0), "a/max": Metric(-2.0, reduction="max"), "a/sum": Metric(2.0, reduction="sum")}
    assert reduce([first, second, {"b/only": Metric(7.0)}]) == {
        "a/mean": 2.0,
        "a/max": 2.0,
        "a/sum": 3.0,
        "b/only": 7.0,
    }
    assert reduce([]) == {}


def test_jsonl_rows_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "ppo" / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write(1, {"reward/mean": 0.1})
    sink.write(2, {"reward/mean": math.nan})
    sink.close()
    path.write_bytes(path.read_bytes() + b'{"step": 3, "met')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    again = JsonlSink(path)
    again.write(2, {"reward/mean": 0.25})
    again.close()
    assert [(row["step"], row["metrics"]) for row in read_metrics(path)] == [
        (1, {"reward/mean": 0.1}),
        (2, {"reward/mean": 0.25}),
    ]
    assert [row["metrics"]["reward/mean"] for row in read_jsonl(path)] == [0.1, None, 0.25]


def test_the_last_whole_row_is_read_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) is None
    path.write_text("")
    assert last_row(path) is None
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert last_row(path) == {"step": 2}
    path.write_text('{"step": 1, "pad": "' + 70000 * "x" + '"}\n{"step": 2}\n{"st')
    assert last_row(path) == {"step": 2}


def test_tensorboard_gets_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = open_sinks(TrackingConfig(tensorboard=True), tmp_path, "ppo", {}, ConsoleSink("ppo", 3))
    sink.write(2, {"reward/mean": 0.5})
    sink.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(2, 0.5)]
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["metrics"] == {"reward/mean": 0.5}


def test_wandb_offline_run_stays_in_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    # its own process, since wandb keeps a service and threads
    code = f"""
from pathlib import Path
from rayalign.storage.metrics import WandbSink
for step in (1, 2):
    sink = WandbSink("project", "ppo", Path({str(tmp_path)!r}), {{"seed": 1}})
    sink.write(step, {{"reward/mean": 0.5}})
    sink.close()
"""
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_X_SERVICE_WAIT": "300"}
    env = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=500)
    identity = (tmp_path / "wandb-id").read_text()
    # both processes' parts belong to one run
    assert {p.name for p in tmp_path.glob("wandb/offline-run-*/*.wandb")} == {f"run-{identity}.wandb"}


def test_samples_keep_whole_dialogues(tmp_path: Path) -> None:
    prompt = Prompt("p", (Message("system", "be brief"), Message("user", "hi")))
    turns = (Message("assistant", "who ?"), Message("user", "me"))
    answer = Trajectory("g", 0, (1,), (Segment(0, "policy", 0),), (0.0,), "stop", "hello", turns)
    table = SampleTable(tmp_path / "samples.jsonl")
    table.write(3, [Group("g", prompt, 3, (answer,))])
    table.close()
    (row,) = read_jsonl(tmp_path / "samples.jsonl")
    assert [message["role"] for message in row["messages"]] == ["system", "user"]
    assert row["prompt"] == "system: be brief\n\nuser: hi"
    assert answer_text(row) == "assistant: who ?\n\nuser: me\n\nassistant: hello"
