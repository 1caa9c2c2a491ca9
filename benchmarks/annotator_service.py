"""The annotator service under load, client on the same machine: verdicts/s, requests/s, latency, overload, a long job.

python -m benchmarks.annotator_service [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import yaml

from benchmarks.record import record
from rayalign.annotator.service_file import EMBEDDED
from rayalign.data.paddock import prompts
from rayalign.data.paddock.baselines import longest

CONNECTIONS, BATCH = 16, 64
PORT = 8931
COMMAND = str(Path(sys.executable).with_name("rayalign"))
URL = f"http://127.0.0.1:{PORT}"
Send = Callable[[dict[str, Any]], Awaitable[int]]


def pairs() -> Iterator[dict[str, Any]]:
    """Pairs of the embedded world without end, each other than the ones before."""
    found = prompts(0, "train")
    for turn in itertools.count():
        for prompt in found:
            draw = random.Random(f"{turn}/{prompt.id}")
            words = longest(prompt).split()
            first, second = (" ".join(draw.sample(words, draw.randint(4, len(words)))) for _ in range(2))
            messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
            yield {"messages": messages, "meta": dict(prompt.meta), "output_1": first, "output_2": f"{second} {turn}"}


@contextmanager
def served(folder: Path, *, haproxy: bool) -> Iterator[psutil.Process]:
    """`rayalign serve` with the embedded pool and a fresh cache."""
    settings = yaml.safe_load(EMBEDDED.read_text(encoding="utf-8"))
    settings |= {"port": PORT, "haproxy": haproxy, "access": {"open": haproxy}}
    settings |= {"cache": f"sqlite:///{folder / f'verdicts-{haproxy}.db'}"}
    file = folder / "annotator.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([COMMAND, "serve", str(file)], stdout=log, stderr=log)
        try:
            asyncio.run(_until_ready(process))
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


async def _until_ready(process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(240):
            if process.poll() is not None:
                raise RuntimeError("rayalign serve ended at once; see its log")
            try:
                async with session.get(f"{URL}/readyz") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.5)
    raise RuntimeError("the service was not ready within 120 s")


def memory(process: psutil.Process) -> int:
    """Proportional set size of the service and everything it started [bytes]."""
    found = [process, *process.children(recursive=True)]
    return sum(p.memory_full_info().pss for p in found if p.is_running())


def bodies(rows: Iterator[dict[str, Any]], count: int, size: int, annotator: str = "careful") -> list[bytes]:
    """Requests, encoded beforehand so that the client's own work is small."""
    return [
        json.dumps({"annotator": annotator, "pairs": list(itertools.islice(rows, size))}).encode() for _ in range(count)
    ]


async def closed_loop(requests: list[bytes]) -> dict[str, float]:
    """All requests as fast as 16 connections carry them."""
    queue, latencies, statuses = iter(requests), list[float](), Counter[int]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def work() -> None:
            for body in queue:
                start = time.perf_counter()
                statuses[await post(session, body)] += 1
                latencies.append(time.perf_counter() - start)

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
        seconds = time.perf_counter() - start
    assert set(statuses) == {200}, statuses
    return {"requests_per_second": len(requests) / seconds, **quantiles(latencies)}


async def open_loop(requests: list[bytes], rate: float) -> dict[str, Any]:
    """Requests sent at their time whatever became of those before; latency counts from that time."""
    latencies, statuses = list[float](), Counter[int]()
    begin = time.perf_counter() + 1.0  # after the tasks below are made
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(at: float, body: bytes) -> None:
            await asyncio.sleep(at - time.perf_counter())
            status = await post(session, body)
            statuses[status] += 1
            if status == 200:
                latencies.append(time.perf_counter() - at)

        await asyncio.gather(*(one(begin + i / rate, body) for i, body in enumerate(requests)))
    return {"offered_per_second": rate, "statuses": {str(k): v for k, v in statuses.items()}, **quantiles(latencies)}


async def post(session: aiohttp.ClientSession, body: bytes) -> int:
    """One request; its status, once the whole reply is there."""
    headers = {"Content-Type": "application/json"}
    async with session.post(
        f"{URL}/v1/preferences", data=body, headers=headers, timeout=aiohttp.ClientTimeout(120)
    ) as reply:
        await reply.read()
        return reply.status


def quantiles(latencies: list[float]) -> dict[str, float]:
    """Milliseconds."""
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000 if latencies else (np.nan, np.nan)
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def batches(rows: Iterator[dict[str, Any]], count: int) -> dict[str, Any]:
    """Batches of 64, first unknown, then known to the cache."""
    requests = bodies(rows, count, BATCH)
    fresh = asyncio.run(closed_loop(requests))
    known = asyncio.run(closed_loop(requests))
    return {
        "uncached_verdicts_per_second": fresh["requests_per_second"] * BATCH,
        "cached_verdicts_per_second": known["requests_per_second"] * BATCH,
        "uncached": fresh,
        "cached": known,
    }


def singles(rows: Iterator[dict[str, Any]], count: int) -> dict[str, Any]:
    """One known pair a request: the most that goes through, and latency at half of that in three windows of 10 s."""
    requests = bodies(rows, min(count, 500), 1)
    asyncio.run(closed_loop(requests))
    many = list(itertools.islice(itertools.cycle(requests), count))
    most = asyncio.run(closed_loop(many))
    half = most["requests_per_second"] / 2
    windows = [asyncio.run(open_loop(many[: int(half * 10)], half)) for _ in range(3)]
    return {"most": most, "half_load": windows, "half_load_p99_ms": float(np.median([w["p99_ms"] for w in windows]))}


def overload(
    rows: Iterator[dict[str, Any]], process: psutil.Process, verdicts_per_second: float, seconds: float
) -> dict[str, Any]:
    """Twice the capacity in new batches, twice, since the first fills what is bounded; then the latency of before."""
    probe = bodies(rows, 400, 1)
    asyncio.run(closed_loop(probe))
    before, held = asyncio.run(open_loop(probe, 20.0)), [memory(process)]
    rate = 2 * verdicts_per_second / BATCH
    bursts = []
    for _ in range(2):
        bursts.append(asyncio.run(open_loop(bodies(rows, int(rate * seconds), BATCH), rate)))
        held.append(memory(process))
        time.sleep(5)
    after = asyncio.run(open_loop(probe, 20.0))
    return {"before": before, "bursts": bursts, "after": after, "memory_bytes": [*held, memory(process)]}


def long_job(rows: Iterator[dict[str, Any]], folder: Path, process: psutil.Process, count: int) -> dict[str, Any]:
    """`rayalign annotate` on a file of so many pairs; memory of client and service, sampled."""
    file = folder / "pairs.jsonl"
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in itertools.islice(rows, count))
    command = [COMMAND, "annotate", str(file), "--at", URL, "--annotator", "careful"]
    start, samples = time.perf_counter(), list[tuple[float, int, int]]()
    client = psutil.Popen([*command, "--output", str(folder / "annotations.jsonl")])
    while client.poll() is None:
        samples.append((time.perf_counter() - start, client.memory_info().rss, memory(process)))
        time.sleep(2)
    seconds = time.perf_counter() - start
    lines = sum(1 for _ in (folder / "annotations.jsonl").open())
    quarter = samples[len(samples) // 4]
    return {
        "pairs": lines,
        "seconds": seconds,
        "verdicts_per_second": lines / seconds,
        "exit_code": client.returncode,
        "client_bytes": {"at_a_quarter": quarter[1], "at_the_end": samples[-1][1]},
        "service_bytes": {"at_a_quarter": quarter[2], "at_the_end": samples[-1][2]},
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, not recorded")
    part = 10 if parser.parse_args().quick else 1
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows, found = pairs(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served(folder, haproxy=False) as process:
            found["batches"] = batches(rows, 1500 // part)
            found["singles_default_proxy"] = singles(rows, 4000 // part)
            capacity = found["batches"]["uncached_verdicts_per_second"]
            found["overload"] = overload(rows, process, capacity, 30 / part)
            found["long_job"] = long_job(rows, folder, process, 100_000 // part)
        with served(folder, haproxy=True):
            found["singles_haproxy"] = singles(rows, 20_000 // part)
    if part == 1:
        record("annotator_service", found)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
