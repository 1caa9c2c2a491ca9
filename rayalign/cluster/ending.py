"""The end of an actor's process, also where it is stopped and hears nothing but SIGKILL."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from rayalign.actors.place import Place
from rayalign.cluster.machine_watch import ask_machine

logger = logging.getLogger(__name__)
END_SECONDS = 2.0
"""that a process has to end by itself"""
FAR_SECONDS = 20.0
"""until another machine must have ended a process"""


def end_actor(actor: Any, place: Place | None, *, lost: bool = False) -> None:
    """End an actor and its process.

    Args:
        place: of the process; None where it has not been located.
        lost: it may be stopped; else Ray's own end is waited for on this machine alone.
    """
    ray.kill(actor)
    if place is None or not (lost or place.address == ray.util.get_node_ip_address()):
        return
    try:
        ask_machine(place.address, end_process, place.pid, timeout=FAR_SECONDS)
    except RayError as error:  # it went with its machine, or goes with it
        logger.debug("the machine %s did not end process %d: %s", place.address, place.pid, error)


def end_process(pid: int) -> None:
    """Kill a process of Ray on this machine that does not end by itself; it may have ended already."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        title = process.cmdline()
        if not title or not title[0].startswith("ray::"):  # another process that has got its number since
            return
        with suppress(psutil.TimeoutExpired):
            process.wait(END_SECONDS)  # else Ray would print that a worker died
            return
        os.kill(pid, signal.SIGKILL)
