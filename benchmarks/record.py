"""What every benchmark writes: its figures, and on what they were measured."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def vllm_distribution() -> str:
    """The name under which vLLM is installed: its CPU build has one of its own."""
    installed = packages_distributions().get("vllm", ["vllm"])
    return installed[0]


def machine() -> dict[str, Any]:
    """This machine, how busy it is, and the versions that figures depend on."""
    packages = ("torch", "ray", vllm_distribution(), "deepspeed", "transformers")
    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "load_at_end": os.getloadavg()[0],
        "versions": {package: version(package) for package in packages},
    }


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def record(name: str, figures: dict[str, Any]) -> None:
    """Write results/<name>.json and show it."""
    content = {"benchmark": name, "time": now(), "machine": machine(), **figures}
    text = json.dumps(content, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
