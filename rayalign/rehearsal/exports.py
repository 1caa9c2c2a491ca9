"""Opens a trained model as its users will: with plain transformers, and in a fresh vLLM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rayalign.config import RolloutConfig
from rayalign.errors import RayalignError
from rayalign.rollout import vllm_runs_on
from rayalign.rollout.vllm import environment

LIMIT = 300.0
"""seconds until a reader must have opened the model and written a token"""
_READER = "from rayalign.rehearsal.exports import write_token; write_token()"


def open_export(folder: Path, rollout: RolloutConfig) -> dict[str, str | None]:
    """Each reader, with what was wrong; None where the model wrote a token."""
    computing = rollout.model_copy(update={"gpus": 0.0, "engines": 1})
    readers = ["transformers"]
    if rollout.engine != "local" and vllm_runs_on() == "cpu":
        readers.append("vllm")
    problems: dict[str, str | None] = {}
    for reader in readers:
        problems[reader] = _open(reader, folder, computing)
    return problems


def _open(reader: str, folder: Path, rollout: RolloutConfig) -> str | None:
    """In a process of its own, since vLLM reads its settings when it is imported."""
    import os

    engine = "local" if reader == "transformers" else reader
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _READER, engine, str(folder), rollout.model_dump_json()],
            env={**os.environ, **environment(rollout)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return f"{reader} wrote no token in {LIMIT:g} s"
    if ended.returncode == 0:
        return None
    lines = ended.stderr.strip().splitlines()
    return f"{reader}: {lines[-1] if lines else f'exit code {ended.returncode}'}"


def write_token() -> None:
    """In a process of its own: one token by an engine of its model folder, both named on the command line."""
    from rayalign.config import SamplingConfig
    from rayalign.rollout import build
    from rayalign.rollout.base import Request

    name, folder, settings = sys.argv[1:]
    engine = build("vllm" if name == "vllm" else "local", folder, RolloutConfig.model_validate_json(settings))
    engine.submit(Request("one", (5, 6, 7), 0, SamplingConfig(max_tokens=1), ()))
    finished = []
    while engine.pending:
        finished += engine.step()
    engine.close()
    if not finished or finished[0].failure or not finished[0].tokens:
        raise RayalignError(f"no token was written: {finished[0].failure if finished else 'nothing came back'}")
