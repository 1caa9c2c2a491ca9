"""Throughput of a served policy: 16 profiles at once from one base, against one adapter, and against the base alone.

python -m benchmarks.served_profiles [--quick]

All arms send the same prompts with the same seeds to one `rayalign serve-policy`, in turn, and the medians over the
turns are compared. Each profile is merged before it is measured; the time of that is a figure of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import torch

from benchmarks.models import make
from benchmarks.record import record
from rayalign.config import LoraConfig, load_registry
from rayalign.data.paddock import prompts
from rayalign.models.adapter_output import save_adapter
from rayalign.weights.files import shapes

COMMAND = str(Path(sys.executable).with_name("rayalign"))
PORT = 8932
URL = f"http://127.0.0.1:{PORT}"
RANK = 8
ANSWER = 48
"""longest answer [tokens]"""
START = 300.0
"""seconds until the service must answer"""


@dataclass(frozen=True)
class Load:
    """How much is requested."""

    requests: int
    turns: int
    model: str


def write_adapters(base: Path, folder: Path) -> dict[str, Path]:
    """An adapter with small random factors for each preference of the registry, on all linear layers."""
    config = LoraConfig(rank=RANK, alpha=float(RANK))
    found = {}
    for seed, name in enumerate(load_registry()):
        draw = torch.Generator().manual_seed(seed)
        tensors = {}
        for weight, shape in shapes(base).items():
            module = weight.removesuffix(".weight")
            if module.rpartition(".")[2] not in config.targets:
                continue
            outputs, inputs = shape
            tensors[f"base_model.model.{module}.lora_A.weight"] = 0.02 * torch.randn(RANK, inputs, generator=draw)
            tensors[f"base_model.model.{module}.lora_B.weight"] = 0.02 * torch.randn(outputs, RANK, generator=draw)
        found[name] = folder / name
        save_adapter(found[name], tensors, config, base=str(base), head="causal")
    return found


@contextmanager
def served(base: Path, adapters: dict[str, Path], folder: Path) -> Iterator[None]:
    """`rayalign serve-policy` with an empty cache, until the end of the context."""
    options = [f"--adapter={name}={path}" for name, path in adapters.items()]
    options += ["--port", str(PORT), "--cache", str(folder / "merged"), "--context", "256"]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([COMMAND, "serve-policy", str(base), *options], stdout=log, stderr=log)
        try:
            asyncio.run(_until_ready(process, folder / "serve.log"))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


async def _until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"rayalign serve-policy ended at once: {log.read_text()}")
            try:
                async with session.get(f"{URL}/readyz") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.5)
    raise RuntimeError(f"the served policy was not ready within {START:.0f} s")


async def requested(models: Sequence[str], count: int) -> dict[str, float]:
    """Requests at once, over the models in turn: their answers' tokens and the seconds until the last one."""
    questions = prompts(0, "test", count)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def one(number: int) -> int:
            messages = [{"role": m.role, "content": m.content} for m in questions[number].messages]
            body = {"model": models[number % len(models)], "messages": messages, "seed": number}
            async with session.post(f"{URL}/v1/chat/completions", json={**body, "max_tokens": ANSWER}) as reply:
                content = await reply.json()
                if reply.status != 200:
                    raise RuntimeError(f"{body['model']}: {content}")
                tokens: int = content["usage"]["completion_tokens"]
                return tokens

        begin = time.perf_counter()
        tokens = await asyncio.gather(*(one(number) for number in range(count)))
        seconds = time.perf_counter() - begin
    return {"seconds": seconds, "tokens": sum(tokens)}


def measure(load: Load) -> dict[str, Any]:
    """All arms in turn; what comes first changes from turn to turn."""
    profiles = [str(profile) for profile in load_registry().combinations(extra=True)]
    arms = {"profiles": profiles, "one_adapter": profiles[:1], "base": ["base"]}
    first = asyncio.run(requested(profiles, len(profiles)))
    again = asyncio.run(requested(profiles, len(profiles)))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for turn in range(load.turns):
        names = list(arms)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rows[name].append(asyncio.run(requested(arms[name], load.requests)))
    figures = {name: _rates(own, load.requests) for name, own in rows.items()}
    tokens = {name: figures[name]["tokens_per_second"] for name in arms}
    return {
        "profiles": len(profiles),
        "merge_seconds_each": max(0.0, first["seconds"] - again["seconds"]) / len(profiles),
        "arms": figures,
        "profiles_against_one_adapter": tokens["profiles"] / tokens["one_adapter"],
        "profiles_against_base": tokens["profiles"] / tokens["base"],
    }


def _rates(rows: Sequence[dict[str, float]], requests: int) -> dict[str, Any]:
    return {
        "tokens_per_second": statistics.median(row["tokens"] / row["seconds"] for row in rows),
        "requests_per_second": statistics.median(requests / row["seconds"] for row in rows),
        "turns": rows,
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, and nothing is recorded")
    quick = parser.parse_args().quick
    load = Load(requests=32, turns=1, model="8M") if quick else Load(requests=128, turns=5, model="50M")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = make(load.model, folder / "base")
        adapters = write_adapters(folder / "base", folder)
        with served(folder / "base", adapters, folder):
            figures = measure(load)
    settings = {"parameters": parameters, "rank": RANK, "requests_at_once": load.requests, "longest_answer": ANSWER}
    if quick:
        print({**settings, **figures})
    else:
        record("served_profiles", {**settings, **figures})


if __name__ == "__main__":
    main()
