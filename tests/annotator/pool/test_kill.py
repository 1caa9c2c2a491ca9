"""Kill -9 in the middle of an annotation: the same command goes on, and no pair is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from tests.annotator.stub_endpoint import Stub, prefers_longer

PAIRS = 150


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).with_name("rayalign"), "annotate", "pairs.jsonl", "--at", "pool.yaml"]
    environment = {**os.environ, "STUB_KEY": "a-key-for-tests"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_kill_during_annotation_loses_and_doubles_nothing(tmp_path: Path) -> None:
    rows = [{"instruction": f"question {i}", "output_1": "a", "output_2": "bb" * i + "b"} for i in range(PAIRS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def strike(prompt: str) -> bool:
        """As the endpoint is about to answer: no stall of the machine makes the kill come too late."""
        if len(stub.billed) >= wanted:
            running.kill()
        return prefers_longer(prompt)

    with Stub(latency=0.1, key="a-key-for-tests", prefers=strike) as stub:
        judge = {"kind": "llm", "model": "stub", "base_url": stub.url, "key_variable": "STUB_KEY", "concurrency": 8}
        settings = {"cache": f"sqlite:///{tmp_path / 'verdicts.db'}", "annotators": {"stub": {"judge": judge}}}
        (tmp_path / "pool.yaml").write_text(yaml.safe_dump(settings))
        for wanted in (20, 60):
            running = start(tmp_path)
            assert running.wait(timeout=300) == -signal.SIGKILL
            assert wanted <= len(stub.billed) < PAIRS, "the kill came in the middle"
            assert not (tmp_path / "annotations.json").exists(), "nothing half-written"
        wanted = PAIRS + 1
        told, _ = (last := start(tmp_path)).communicate(timeout=300)
        assert last.returncode == 0, told.decode()
        asked = len(stub.bodies)
        assert start(tmp_path).wait(timeout=300) == 0 and len(stub.bodies) == asked, "a finished one asks nobody"
    found = json.loads((tmp_path / "annotations.json").read_text())
    assert [row["instruction"] for row in found] == [row["instruction"] for row in rows]
    assert {row["preference"] for row in found} == {2.0}
    assert len(stub.billed) == PAIRS and max(stub.billed.values()) == 1
