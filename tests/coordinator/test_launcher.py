from __future__ import annotations

import asyncio

import pytest

from rayalign.config import RoleConfig
from rayalign.coordinator.launcher import choose_launcher
from rayalign.coordinator.offline_actors import _watch
from rayalign.coordinator.progress import Watch
from rayalign.errors import ActorError, InputError, LostError

BIG, SMALL = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}


@pytest.mark.parametrize(
    ("host", "machines", "expected"),
    [
        (RoleConfig(actors=64), [SMALL], "actors"),  # without CPUs named, any number shares a machine
        (RoleConfig(actors=4, gpus=1), [SMALL, BIG], "actors"),
        (RoleConfig(actors=5, gpus=1), [BIG, BIG], "ray_train"),
        (RoleConfig(actors=2, cpus=6), [SMALL, SMALL], "ray_train"),
        (RoleConfig(actors=2, cpus=6), [SMALL, BIG], "actors"),
        (RoleConfig(actors=2, cpus=8, gpus=0.5), [{"CPU": 16.0}, {"CPU": 4.0, "GPU": 8.0}], "ray_train"),
    ],
)
def test_ray_train_launches_what_no_machine_has_room_for(
    host: RoleConfig, machines: list[dict[str, float]], expected: str
) -> None:
    assert choose_launcher("auto", host, machines)[0] == expected
    assert choose_launcher("ray_train", host, machines)[0] == "ray_train"
    assert choose_launcher("actors", host, machines)[0] == "actors"


class StillWatch(Watch):
    """A watch with nothing to object to."""

    def __init__(self, ready_after: int = 0) -> None:
        self._looks = -ready_after

    def check(self) -> None:
        self._looks += 1

    @property
    def ready(self) -> bool:
        return self._looks >= 0


async def ending(seconds: float, error: Exception | None = None) -> None:
    await asyncio.sleep(seconds)
    if error is not None:
        raise error


async def wait_for(watch: Watch, *ranks: tuple[float, Exception | None]) -> list[bool]:
    """Which rank was done each time that all were ready."""
    futures = [asyncio.ensure_future(ending(*rank)) for rank in ranks]
    calls: list[bool] = []
    await _watch(futures, watch, lambda: calls.append(futures[0].done()))
    return calls


def test_all_ranks_are_waited_for_and_the_first_moment_when_they_are_ready_is_reported() -> None:
    assert asyncio.run(wait_for(StillWatch(ready_after=1), (0.5, None), (0.7, None))) == [False]


def test_the_cause_is_raised_even_where_its_consequence_comes_first() -> None:
    broken = ActorError("train:policy (pid 1) failed: RuntimeError: Connection closed by peer")
    dead = LostError("train:policy (pid 2) died: its process has died")
    refusal = InputError("of the rows none can be trained on")
    with pytest.raises(ActorError, match=r"\(pid 2\) died"):
        asyncio.run(wait_for(StillWatch(), (0.0, broken), (0.1, dead)))
    with pytest.raises(InputError, match="none can be trained on"):
        asyncio.run(wait_for(StillWatch(), (0.0, broken), (0.1, refusal), (0.2, dead)))
