from __future__ import annotations

import pytest

from rayalign.forecast.calibration import Calibration, Record
from rayalign.forecast.forecast import forecast
from rayalign.forecast.splits import splits
from tests.forecast.conftest import JobOf, Machines

NOTHING_MEASURED = Calibration([])


def test_every_division_fits_and_the_fastest_comes_first(job_of: JobOf, machines: Machines) -> None:
    divisions = splits(job_of(), machines(8), NOTHING_MEASURED)
    seconds = [division.seconds.middle for division in divisions]
    assert seconds == sorted(seconds)
    assert all(division.forecast.fits for division in divisions)
    assert {division.engines for division in divisions if not division.shared} == {1, 2, 3, 4, 5, 6}
    assert any(division.shared for division in divisions)


def test_the_best_division_is_no_slower_than_the_jobs_own(job_of: JobOf, machines: Machines) -> None:
    own = forecast(job_of(), machines(8), NOTHING_MEASURED)
    best = splits(job_of(), machines(8), NOTHING_MEASURED)[0]
    assert best.seconds.middle <= own.hours.middle * 3600


def test_more_devices_are_never_slower(job_of: JobOf, machines: Machines) -> None:
    fastest = []
    for devices in (3, 4, 6, 8, 12):
        fastest.append(splits(job_of(), machines(devices), NOTHING_MEASURED)[0].seconds.middle)
    assert fastest == sorted(fastest, reverse=True)


def test_more_machines_are_never_slower(job_of: JobOf, machines: Machines) -> None:
    one, two, three = (
        splits(job_of(), machines(4, count=count), NOTHING_MEASURED)[0].seconds.middle for count in (1, 2, 3)
    )
    assert one >= two >= three


def test_its_overrides_make_the_job_that_was_forecast(job_of: JobOf, machines: Machines) -> None:
    for division in splits(job_of(), machines(8), NOTHING_MEASURED):
        again = forecast(job_of(*division.overrides), machines(8), NOTHING_MEASURED)
        assert again.hours.middle == division.forecast.hours.middle


def test_ranks_divide_the_batches(job_of: JobOf, machines: Machines) -> None:
    for division in splits(job_of(), machines(8), NOTHING_MEASURED):
        (override,) = [text for text in division.overrides if ".roles.policy=" in text]
        ranks = int(override.partition("actors: ")[2].partition(",")[0])
        assert 64 % ranks == 0


def test_a_job_without_devices_has_nothing_to_divide(job_of: JobOf, machines: Machines) -> None:
    assert splits(job_of("rollout.gpus=0"), machines(0), NOTHING_MEASURED) == []


def test_divisions_of_a_model_of_unknown_sizes_are_not_compared(job_of: JobOf, machines: Machines) -> None:
    assert splits(job_of("stages.rl.model=someone/unheard-of"), machines(8), NOTHING_MEASURED) == []


def test_overlapped_stages_do_not_take_turns(job_of: JobOf, machines: Machines) -> None:
    divisions = splits(job_of("stages.rl.max_staleness=1"), machines(8), NOTHING_MEASURED)
    assert divisions and not any(division.shared for division in divisions)


def test_a_division_is_timed_by_the_measurements_and_the_prompts_of_the_job(job_of: JobOf, machines: Machines) -> None:
    record = Record(
        device="H100", phase="update", share=0.45, parameters=494_000_000, actors=2, prompt=100, answer=100,
        data="hh", source="run/rl",
    )  # fmt: skip
    calibration, prompts = Calibration([record]), {"rl": 77.0}
    for division in splits(job_of(), machines(8), calibration, prompts):
        (stage,) = division.forecast.stages
        assert stage.phases["update"].share.source == "run/rl"
        assert "prompts of 77 to 77 tokens, as read" in stage.lengths
        assert division.seconds.high == pytest.approx(stage.seconds.high * 100)
        assert division.seconds.low < division.seconds.high


def test_a_division_that_does_not_fit_is_no_choice(job_of: JobOf, machines: Machines) -> None:
    large = job_of("stages.rl.model=Qwen/Qwen2.5-7B", "stages.rl.learner.zero_stage=0")
    assert splits(large, machines(3, "L4"), NOTHING_MEASURED) == []
