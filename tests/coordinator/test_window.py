"""Which places are submitted when, and which groups an iteration takes, by the rules alone."""

from __future__ import annotations

import random

import pytest

from rayalign.coordinator.window import Place, Shelf, Window, place_of
from rayalign.types import Group, Prompt, Segment, Trajectory

PROMPT = Prompt("p", ())


def made(place: Place, version: int) -> Group:
    segments = (Segment(0, "template"), Segment(1, "policy", version))
    name = f"{place[0]:05d}-{place[1]:04d}.0"
    return Group(name, PROMPT, place[0], (Trajectory(name, 0, (1, 2), segments, (-1.0,), "stop"),))


def test_a_group_names_its_place() -> None:
    assert place_of("00012-0034.5") == (12, 34)


def test_nothing_is_admitted_before_the_first_version() -> None:
    assert Window(3, 4, max_staleness=2).admitted(-1) == 0


@pytest.mark.parametrize(
    ("window", "admitted"),
    [
        (Window(3, 4, 0), [3, 6, 9, 12]),
        (Window(3, 4, 1), [6, 9, 12, 12]),
        (Window(3, 4, 0, extra=2), [5, 10, 15, 20]),
        (Window(3, 4, 1, extra=2), [10, 15, 20, 20]),
        (Window(3, 4, 1, extra=2, carries=True), [5, 8, 11, 12]),
        (Window(3, 4, 2, extra=1, carries=True), [7, 10, 12, 12]),
    ],
)
def test_each_version_admits_what_can_still_be_consumed(window: Window, admitted: list[int]) -> None:
    assert [window.admitted(version) for version in range(4)] == admitted


def test_of_more_prompts_the_first_that_are_finished_make_the_iteration_in_the_order_of_their_places() -> None:
    shelf = Shelf(Window(2, 4, 0, extra=2))
    for place in ((0, 3), (1, 0), (0, 1)):
        assert not shelf.is_whole(0)
        shelf.put(place, made(place, 0))
    shelf.put((0, 0), made((0, 0), 0))
    taken, surplus = shelf.take(0)
    assert list(taken) == [(0, 1), (0, 3)]
    assert [group.id for group in surplus] == ["00000-0000.0"]
    assert not shelf.needs(0) and shelf.needs(1) and shelf.count(1) == 1


def test_a_group_that_the_next_iteration_could_not_take_is_awaited() -> None:
    shelf = Shelf(Window(2, 4, 1, extra=1, carries=True))
    for _ in range(3):
        shelf.begin(0)
    for place in ((0, 1), (1, 0)):
        shelf.end(0)
        shelf.put(place, made(place, 0))
    assert shelf.is_whole(0)
    taken, _ = shelf.take(0)
    assert list(taken) == [(0, 1), (1, 0)]
    for place in ((1, 1), (2, 0)):
        shelf.put(place, made(place, 1))
    assert not shelf.is_whole(1), "(0, 0) is of version 0"
    shelf.end(0)
    shelf.put((0, 0), made((0, 0), 0))
    taken, surplus = shelf.take(1)
    assert list(taken) == [(0, 0), (1, 1)] and not surplus, "the oldest first"


@pytest.mark.parametrize("seed", range(20))
def test_a_tail_for_later_loses_no_place_and_keeps_the_bound(seed: int) -> None:
    dice = random.Random(seed)
    prompts, staleness = dice.randint(1, 5), dice.randint(1, 3)
    window = Window(prompts, 8, staleness, extra=dice.randint(1, prompts), carries=True)
    shelf, waiting, consumed = Shelf(window), dict[Place, int](), list[Place]()
    submitted = late = 0
    for iteration in range(8):
        for place in window.places(submitted, window.admitted(iteration)):
            waiting[place] = iteration
            shelf.begin(iteration)
        submitted = window.admitted(iteration)
        while not shelf.is_whole(iteration):
            place = dice.choice(list(waiting))
            shelf.end(waiting[place])
            shelf.put(place, made(place, waiting.pop(place)))
        taken, surplus = shelf.take(iteration)
        assert len(taken) == prompts and not surplus
        assert all(iteration - group.version <= staleness for group in taken.values())
        late += sum(home < iteration for home, _ in taken)
        consumed += taken
    assert sorted(consumed) == list(window.places(0, 8 * prompts)) and not waiting
    assert late
