"""A run in an S3 bucket that is stopped, and goes on from there in another Ray session with another working folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl
from rayalign.storage.remote import RemoteFolder, join
from tests.s3 import Server, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1200)]
ITERATIONS, PROMPTS, STOPPED_AT = 12, 4, 3
JOB = """\
name: away
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engine: local, engines: 1, context: 64}
stages:
  sft:
    kind: train
    algorithm: {name: sft}
    model: MODEL
    data: {split: sft, limit: 64}
    learner: {minibatch: 32}
  rl:
    kind: train
    algorithm: {name: rrhf}
    model: stage:sft
    reward: {rules: {kind: length, high: 6, margin: 20}}
    candidates: [{source: live, count: 2}]
    sampling: {max_tokens: 8}
    learner: {minibatch: 8}
    data: {limit: 32}
    prompts: PROMPTS
    iterations: ITERATIONS
    checkpoint_every: 1
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with s3_server() as server:
        yield server


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that has nothing but the job file."""

    folder: Path
    job: Path
    output: str

    def start(self) -> subprocess.Popen[str]:
        """The run, in a Ray session of its own."""
        for name in ("work", "cache"):
            (self.folder / name).mkdir(parents=True)
        own = {"RAYALIGN_WORK": str(self.folder / "work"), "RAYALIGN_CACHE": str(self.folder / "cache")}
        command = [str(Path(sys.executable).with_name("rayalign")), "run", str(self.job), f"output={self.output}"]
        return subprocess.Popen(
            command,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell in the background ignores it
        )

    def iterations(self) -> int:
        """How many iterations of the online stage the run has reported."""
        paths = list((self.folder / "work").glob("*/away/stages/rl/metrics.jsonl"))
        return len(list(read_jsonl(paths[0], growing=True))) if paths else 0


def test_a_run_in_a_bucket_is_stopped_and_goes_on_elsewhere(s3: Server, model: str, tmp_path: Path) -> None:
    model_url = f"s3://bucket/models/nano{s3.query}"
    RemoteFolder(model_url).upload(Path(model))
    text = JOB.replace("MODEL", model_url).replace("ITERATIONS", str(ITERATIONS)).replace("PROMPTS", str(PROMPTS))
    (tmp_path / "job.yaml").write_text(text)
    output = f"s3://bucket/runs{s3.query}"
    first, second = (Machine(tmp_path / name, tmp_path / "job.yaml", output) for name in ("first", "second"))

    stopped = first.start()
    while first.iterations() < STOPPED_AT:
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    log, _ = stopped.communicate(timeout=300)
    assert stopped.returncode == 130 and "the same command goes on where this one stopped" in log, log
    assert list((first.folder / "work").iterdir()) == [], "nothing stays on this machine"

    resumed = second.start()
    log, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0 and "sft: finished before" in log, log
    assert list((second.folder / "cache").iterdir()) == [], "the model of a stage that is finished is not fetched"

    run = tmp_path / "run"
    RemoteFolder(join(output, "away")).download(run)
    rows = read_metrics(run / "stages" / "rl" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(ITERATIONS))
    with closing(Journal(run / "journal" / "rl.jsonl")) as journal:
        rewinds = [entry for entry in journal.replay() if entry["kind"] == "rewound"]
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    assert len(rewinds) == 1 and len(account.consumed) == ITERATIONS * PROMPTS
    starts = [row["stage"] for row in read_jsonl(run / "events.jsonl") if row["event"] == "stage_started"]
    assert starts == ["sft", "rl", "rl"]
    assert (run / "report.html").is_file() and (run / "stages" / "rl" / "model" / "model.safetensors").is_file()
