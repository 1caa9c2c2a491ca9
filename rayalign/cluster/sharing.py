"""Roles on shared devices: how they enter the turns, and in which order they load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayalign.cluster.group import ActorGroup, Call
from rayalign.cluster.placement import Slot, Slots
from rayalign.cluster.turns import DeviceTurns, Part, Presence, Sharer, Sizes, Turn, present_parts
from rayalign.errors import ActorError
from rayalign.types import Role

CallAll = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Share:
    """What a role has on shared devices."""

    sizes: Sizes
    presence: Presence
    resident: bool = False

    @property
    def first_turn(self) -> Turn:
        """The turn in which it loads: training, where it has any part then."""
        parts = present_parts(self.presence, "training", self.sizes, resident=self.resident)
        return "training" if parts else "rollout"


@dataclass(frozen=True, slots=True)
class SharedRoles:
    """The roles of one stage that share devices."""

    turns: DeviceTurns
    slots: Slots
    shares: Mapping[str, Share]

    def waves(self, roles: Collection[Role]) -> list[list[Role]]:
        """Roles that load at once: first what has its turn with the engines, which leaves before the others come."""
        early = [role for role in roles if role in self.shares and self.shares[role].first_turn == "rollout"]
        others = [role for role in roles if role not in early]
        return [wave for wave in (early, others) if wave]

    async def admit(self, groups: Collection[ActorGroup]) -> None:
        """Make room for roles that are about to load, and enter their claims.

        Raises:
            CapacityError: a device has no room for them.
        """
        await self.turns.enter("training")
        for group in groups:
            if group.role in self.shares:
                share = self.shares[group.role]
                self.turns.add(sharer(group.role, group.all, self.slots[group.role], share), share.first_turn)

    def verify(self, groups: Collection[ActorGroup]) -> None:
        """Raise an ActorError where a process uses other devices than those of its slot."""
        for group in groups:
            if group.role in self.slots:
                verify_devices(group, self.slots[group.role])

    def leave(self) -> None:
        """Forget the roles, whose actors have ended."""
        for role in self.shares:
            self.turns.remove(role)


def sharer(role: str, call_all: CallAll, slots: Sequence[Slot], share: Share) -> Sharer:
    """A role as the turns see it; `call_all` calls each of its actors."""
    devices: list[str] = []
    for slot in slots:
        devices += slot.devices

    async def offload(parts: Sequence[Part]) -> None:
        await call_all(lambda actor: actor.offload.remote(parts))

    async def reload(parts: Sequence[Part]) -> None:
        await call_all(lambda actor: actor.reload.remote(parts))

    return Sharer(role, devices, share.sizes, share.presence, offload, reload, share.resident)


def verify_devices(group: ActorGroup, slots: Sequence[Slot]) -> None:
    """Raise an ActorError where a process uses other devices than those of its slot."""
    for actor, slot in zip(group.actors, slots, strict=True):
        devices = group.places[actor].devices
        if devices != slot.devices:
            raise ActorError(
                f"{group.role} (pid {group.pid(actor)}) uses {', '.join(devices) or 'no device'} in the place of "
                f"{', '.join(slot.devices)}; set neither CUDA_VISIBLE_DEVICES nor CUDA_DEVICE_ORDER for Ray's workers"
            )
