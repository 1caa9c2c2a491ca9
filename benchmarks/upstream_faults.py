"""Throughput through an endpoint with 100 ms of latency and 10% faults, as a share of what the concurrency allows.

What is allowed: `concurrency` slots, each of which is held by every attempt for as long as the endpoint takes: the
latency, or the timeout where it hangs. A retry takes a slot like any attempt. So the ceiling on verdicts per second is

    concurrency x verdicts / (seconds that the endpoint takes for all attempts together)

and `share` is the measured verdicts per second over it, from the first call to the last reply, pauses and tail
included.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from typing import Any

from benchmarks.record import record
from rayalign.annotator.endpoints.language_model import Completion
from rayalign.annotator.endpoints.openai_client import OpenAIModel
from rayalign.config.annotators import LLMJudgeConfig
from tests.annotator.fakes import Ledger

CALLS = 4000
CONCURRENCY = 16
LATENCY = 0.1
TIMEOUT = 1.0
SHARES = {"429": 0.03, "500": 0.03, "reset": 0.01, "broken": 0.01, "empty": 0.01, "hang": 0.01}


async def ask(url: str) -> tuple[int, float]:
    """All calls at once: how many verdicts, in how many seconds."""
    config = LLMJudgeConfig(
        kind="llm", model="stub", base_url=url, key_variable="STUB_KEY", concurrency=CONCURRENCY, timeout=TIMEOUT
    )
    upstream = OpenAIModel(config)
    begun = time.perf_counter()
    paying = Ledger().paying
    turns = ([{"role": "user", "content": f"pair {i}"}] for i in range(CALLS))
    calls = (upstream.complete(turn, {"max_tokens": 8}, paying) for turn in turns)
    replies = await asyncio.gather(*calls, return_exceptions=True)
    seconds = time.perf_counter() - begun
    await upstream.close()
    return sum(isinstance(reply, Completion) for reply in replies), seconds


def figures(verdicts: int, seconds: float, seen: dict[str, Any]) -> dict[str, Any]:
    """The share, and what the endpoint counted."""
    faults = seen["faults"]
    at_once, hung = faults.get("reset", 0), faults.get("hang", 0)
    held = (seen["requests"] - at_once - hung) * LATENCY + hung * TIMEOUT
    return {
        "calls": CALLS,
        "concurrency": CONCURRENCY,
        "latency_seconds": LATENCY,
        "timeout_seconds": TIMEOUT,
        "fault_shares": SHARES,
        "seconds": seconds,
        "verdicts_per_second": verdicts / seconds,
        "allowed_per_second": CONCURRENCY * verdicts / held,
        "share": held / CONCURRENCY / seconds,
        "share_of_faultless": verdicts / seconds / (CONCURRENCY / LATENCY),
        "lost": CALLS - verdicts,
        "endpoint": seen,
    }


def main() -> None:
    """The endpoint in a process of its own, with two cores to share."""
    os.environ["STUB_KEY"] = "unused"
    options = json.dumps({"latency": LATENCY, "shares": SHARES})
    command = [sys.executable, "-m", "tests.annotator.stub_endpoint", options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        url = stub.stdout.readline().strip()
        try:
            verdicts, seconds = asyncio.run(ask(url))
            with urllib.request.urlopen(url.removesuffix("/v1") + "/report", timeout=10.0) as reply:
                seen = json.load(reply)
        finally:
            stub.kill()
    record("upstream_faults", figures(verdicts, seconds, seen))


if __name__ == "__main__":
    main()
