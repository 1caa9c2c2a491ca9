"""A process with the large libraries, which takes one role after another: a stage need not wait for imports again."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from rayalign.actors.hosted import HostedActor, Pulse, Rendezvous, own_pulse


@dataclass(frozen=True, slots=True)
class RankSpec:
    """What one rank of a loop is made from."""

    loop: Callable[[Any], None]
    """of a module, so that it travels by its name"""
    settings: Any
    """its argument"""


class RankActor(HostedActor):
    """One rank of a loop that owns its steps, as an offline stage does."""

    def __init__(self, spec: RankSpec) -> None:
        self._spec = spec

    def setup(self, meeting: Rendezvous) -> None:
        """Name the other ranks in the environment, where the loop looks for them."""
        meeting.enter()

    def run(self) -> None:
        """Run the loop to its end."""
        self._spec.loop(self._spec.settings)


class Worker:
    """Hosts one role at a time. Nothing of a role outlives it: model, process group, environment, random state."""

    def __init__(self) -> None:
        self._role: HostedActor | None = None
        self._environment: dict[str, str] = {}

    def load(self, modules: Sequence[str]) -> None:
        """Import modules that roles will need."""
        for module in modules:
            importlib.import_module(module)

    def begin(self, kind: Callable[[Any], HostedActor], spec: Any, threads: int) -> None:
        """Become an actor of a role."""
        assert self._role is None, "end comes before the next begin"
        self._environment = dict(os.environ)
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        torch.manual_seed(0)  # a process starts with a seed of chance
        self._role = kind(spec)

    def pulse(self) -> Pulse:
        """As `HostedActor.pulse`."""
        return own_pulse()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the role."""
        return getattr(self._role, method)(*arguments)

    def end(self) -> None:
        """Drop the role, and release what it used."""
        if self._role is not None:
            self._role.close()
            self._role.hang_up()
        self._role = None
        if torch.distributed.is_initialized():
            from rayalign.models.process_group import leave

            leave()
        self._restore_environment()
        _release_memory()

    def _restore_environment(self) -> None:
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        os.environ.update(self._environment)


def _release_memory() -> None:
    """Return freed memory to the device and to the system, which allocators would keep for the next role."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
