from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rayalign.storage.events import EventLog
from rayalign.storage.records import read_jsonl


def test_event_has_time_and_process(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run" / "events.jsonl")
    log.write("published", version=3, probe_gap=math.nan)
    log.close()
    (row,) = read_jsonl(tmp_path / "run" / "events.jsonl")
    assert row.pop("time") > 0
    assert row == {"event": "published", "pid": os.getpid(), "version": 3, "probe_gap": None}


def test_threads_and_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = f"""
from pathlib import Path
from rayalign.storage.events import EventLog
log = EventLog(Path({str(path)!r}))
for i in range(200):
    log.write("other", number=i, text="x" * 500)
"""
    other = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    log = EventLog(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: log.write("mine", number=i, text="y" * 500), range(200)))
    log.close()
    assert other.wait(300) == 0
    for name in ("mine", "other"):
        assert sorted(r["number"] for r in read_jsonl(path) if r["event"] == name) == list(range(200))


def test_rows_are_plain_json_lines(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e")
    log.write("a", text="two\nlines\u2028")
    log.close()
    lines = (tmp_path / "e").read_bytes().split(b"\n")
    assert json.loads(lines[0])["text"] == "two\nlines\u2028" and lines[1:] == [b""]
