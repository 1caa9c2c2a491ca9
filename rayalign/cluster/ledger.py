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
        """Enter `size` more bytes under the holder's name.

        Raises:
            CapacityError: the device has less than that left; the message lists who holds what.
        """
        claims = self._claims[device]
        if size > self.free(device):
            rows = ", ".join(f"{name} {readable(claim)}" for name, claim in claims.items()) or "nobody"
            raise CapacityError(
                f"{holder} needs {readable(size)} of {device}, which has {readable(self.free(device))} of "
                f"{readable(self._capacity[device])} left (held by {rows}); free one of them first, or use more devices"
            )
        claims[holder] = claims.get(holder, 0) + size

    def release(self, device: str, holder: str) -> None:
        """Remove all claims of the holder on the device."""
        self._claims[device].pop(holder, None)

    def free(self, device: str) -> int:
        """Bytes without a claim."""
        return self._capacity[device] - sum(self._claims[device].values())


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
