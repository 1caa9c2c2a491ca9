"""The devices that the stages of a run share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import cached_property, partial

from rayalign.cluster.devices import SharedDevices, reserve_devices
from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.placement import Slot
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.sharing import Share, SharedRoles, sharer, verify_devices
from rayalign.cluster.turns import PRESENCE, DeviceTurns, Sizes
from rayalign.config import Job, RolloutConfig
from rayalign.errors import InputError
from rayalign.models.catalogue import ModelShape, shape_of
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.needs import GENERATOR, generator
from rayalign.pipeline.plan import RolePlan, StagePlan, plan
from rayalign.pipeline.sizes import role_parts
from rayalign.storage.events import EventLog
from rayalign.weights.files import model_folder


class DeviceSharing:
    """Reserved when the pool starts, and given back before a stage that has no use for the pool.

    Which actor uses which device, and how much of it, is what the plan says.
    """

    def __init__(self, job: Job, events: EventLog) -> None:
        self._job = job
        self._events = events
        self._devices: SharedDevices | None = None
        self.turns = DeviceTurns(DeviceLedger({}), events)
        """of the reserved devices"""

    @property
    def rollout(self) -> RolloutConfig:
        """The engines as they compute: on the CPU where the devices are logical."""
        rollout = self._job.rollout
        return rollout.model_copy(update={"gpus": 0.0}) if self._job.cluster.logical_devices else rollout

    def reserve(self) -> list[Slot]:
        """Reserve the devices of all stages; the slots of the engines, none where engines share no devices."""
        if not self._job.cluster.share_devices:
            return []
        cluster = self._job.cluster
        if self._devices is None:
            stages = self._stages.values()
            self._devices = reserve_devices(
                max(stage.devices for stage in stages),
                together=max(1, math.ceil(self._job.rollout.gpus)),
                logical=cluster.logical_devices is not None,
                timeout=cluster.start_timeout,
            )
            capacity = {device.name: cluster.device_bytes for device in self._devices.devices}
            self.turns = DeviceTurns(DeviceLedger(capacity), self._events)
        return self._engine_slots()

    def admit_pool(self, pool: GeneratorPool) -> None:
        """Enter the engines, which have just started, into the turns."""
        if self._devices is None:
            return
        slots = self._engine_slots()
        verify_devices(pool.group, slots)
        need = generator(self._job, pool.model)
        share = Share(role_parts(self._job, need, _shape(need.role, pool.model)), PRESENCE[GENERATOR])
        every = partial(pool.every, timeout=self._job.cluster.call_timeout)
        self.turns.add(sharer(GENERATOR, every, slots, share), "rollout")

    def release(self) -> None:
        """Give the devices back; the engines have ended."""
        self.turns.remove(GENERATOR)
        if self._devices is not None:
            self._devices.release()
        self._devices = None

    def roles(self, stage_name: str, names: Collection[str], model: Callable[[str], str]) -> SharedRoles | None:
        """Those roles of a stage, among the named ones, that share devices; None where stages share none.

        Args:
            model: gives the folder or hub name of a model as the job names it.
        """
        if self._devices is None or stage_name not in self._stages:
            return None
        slots = {}
        shares = {}
        for planned in self._stages[stage_name].roles:
            if planned.gpus and planned.role in names:
                sizes = self._sizes(stage_name, planned, model(planned.model))
                slots[planned.role] = self._slots(planned)
                shares[planned.role] = Share(sizes, planned.presence, planned.resident)
        return SharedRoles(self.turns, slots, shares)

    @cached_property
    def _stages(self) -> dict[str, StagePlan]:
        """The stages that share devices."""
        return {stage.name: stage for stage in plan(self._job).stages if stage.shared}

    def _engine_slots(self) -> list[Slot]:
        """The plan has the engines on the same devices in all stages."""
        stage = next(iter(self._stages.values()))
        return self._slots(next(role for role in stage.roles if role.role == GENERATOR))

    def _slots(self, planned: RolePlan) -> list[Slot]:
        assert self._devices is not None, "devices are reserved before anybody has a slot"
        slots = []
        for device in planned.devices:
            numbers = device.removeprefix("gpu:").split(",")
            slots.append(self._devices.slot([int(number) for number in numbers]))
        return slots

    def _sizes(self, stage_name: str, planned: RolePlan, model: str) -> Sizes:
        """The parts of a role; of a model that the plan did not know, by its files, which are here now."""
        if planned.parts is not None:
            return planned.parts
        needs = kind_of(self._job.stages[stage_name]).roles(self._job)
        need = next(need for need in needs if need.role == planned.role)
        return role_parts(self._job, need, _shape(planned.role, model))


def _shape(role: str, model: str) -> ModelShape:
    """The shape of a model by its files."""
    shape = shape_of(str(model_folder(model)))
    if shape is None:
        raise InputError(
            f"{model} does not say how large it is, so {role} cannot share a device; set cluster.share_devices to false"
        )
    return shape
