"""Where an actor runs. It knows no Ray, so that whoever names a process can use it."""

from __future__ import annotations

from dataclasses import dataclass

LOGICAL = "logical:"
"""beginning of a logical device's name"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor runs."""

    pid: int
    address: str
    port: int
    """a free one, held for rank 0 until it listens there"""
    devices: tuple[str, ...] = ()
    """UUIDs of its GPUs, or names of its logical devices"""
    node: str = ""
    """Ray's id of its machine"""

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of its GPUs."""
        return tuple(device for device in self.devices if not device.startswith(LOGICAL))
