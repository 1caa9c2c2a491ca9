"""DeviceLedger: who holds how many bytes of which device. Capacity holds on logical devices as on real ones."""

from __future__ import annotations

from collections.abc import Mapping

from rayalign.errors import CapacityError


class DeviceLedger:
    """Named claims against the capacity of each device [bytes]."""

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._capacity = dict(capacity)
        self._claims: dict[str, dict[str, int]] = {device: {} for device in capacity}

    def claim(self, device: str, holder: str, size: int) -> None:
        """Take `size` bytes in the holder's name.

        Raises:
            CapacityError: the device has not so much left; the message lists who holds what.
        """
        held = self._claims[device]
        if size > self.free(device):
            rows = ", ".join(f"{name} {_gib(claim)}" for name, claim in held.items()) or "nobody"
            raise CapacityError(
                f"{holder} wants {_gib(size)} of {device}, which has {_gib(self.free(device))} of "
                f"{_gib(self._capacity[device])} left (held by {rows}); release one of them first, or use more devices"
            )
        held[holder] = held.get(holder, 0) + size

    def release(self, device: str, holder: str) -> None:
        """Give back all that the holder has on the device."""
        self._claims[device].pop(holder, None)

    def free(self, device: str) -> int:
        """Bytes that nobody claimed."""
        return self._capacity[device] - sum(self._claims[device].values())


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
