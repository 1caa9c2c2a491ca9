from __future__ import annotations

import pytest

from rayalign.config import Job
from rayalign.forecast.calibration import Calibration
from rayalign.forecast.fits import remedy
from rayalign.forecast.forecast import Forecast, forecast
from rayalign.forecast.hardware import Hardware
from tests.forecast.conftest import JobOf, Machines


def forecast_of(job: Job, hardware: Hardware) -> Forecast:
    return forecast(job, hardware, Calibration([]))


def test_too_few_devices_are_counted(job_of: JobOf, machines: Machines) -> None:
    outcome = forecast_of(job_of(), machines(4))
    (misfit,) = outcome.misfits
    assert (misfit.stage, outcome.fits) == ("rl", False)
    assert misfit.text.startswith("needs 5 devices, but there are 4; lower rollout.engines")


def test_a_device_that_is_too_small_is_named_with_a_change_that_was_tried(job_of: JobOf, machines: Machines) -> None:
    job = job_of("stages.rl.model=Qwen/Qwen2.5-3B", "stages.rl.learner={zero_stage: 0, minibatch: 64, precision: bf16}")
    hardware = machines(8, "L40S")
    (misfit,) = forecast_of(job, hardware).misfits
    assert "puts about" in misfit.text and "which has 44.0 GiB; set " in misfit.text
    overrides = misfit.text.partition("; set ")[2].split()
    settings = dict(override.removeprefix("stages.rl.learner.").split("=") for override in overrides)
    changed = job_of(
        "stages.rl.model=Qwen/Qwen2.5-3B",
        "stages.rl.learner={zero_stage: 0, minibatch: 64, precision: bf16}",
        *(f"stages.rl.learner.{key}={value}" for key, value in settings.items()),
    )
    assert forecast_of(changed, hardware).fits


def test_a_frozen_model_that_no_device_holds_is_to_lie_in_parts(job_of: JobOf, machines: Machines) -> None:
    large = ("stages.rl.reward=Qwen/Qwen2.5-72B", "stages.rl.roles.reward={actors: 4, gpus: 1}")
    job = job_of(*large)
    change = "stages.rl.roles.reward={actors: 4, gpus: 1, spread: true}"
    assert remedy(job, "rl", machines(12)) == [f"'{change}'"]
    assert not forecast_of(job, machines(12)).fits
    assert forecast_of(job_of(*large, change), machines(12)).fits


def test_a_model_in_parts_takes_no_more_devices_than_there_are(job_of: JobOf, machines: Machines) -> None:
    job = job_of("stages.rl.reward=Qwen/Qwen2.5-72B", "stages.rl.roles={reference: {gpus: 1}, reward: {gpus: 1}}")
    # Seven with a second actor of the reward, which has to take a device before the reference does.
    assert remedy(job, "rl", machines(6, "B200")) == []
    change = "stages.rl.roles.reward={actors: 2, gpus: 1, spread: true}"
    assert remedy(job, "rl", machines(7, "B200")) == [f"'{change}'"]


def test_a_change_that_takes_too_many_devices_leaves_room_for_the_next(job_of: JobOf, machines: Machines) -> None:
    overrides = (f"rollout.cache_bytes={60 << 30}", "cluster.gpu_memory=50000000000")
    job = job_of(*overrides, "stages.rl.roles={reference: {gpus: 1}, reward: {gpus: 1}}")
    assert remedy(job, "rl", machines(6)) == [f"rollout.cache_bytes={30 << 30}"]


@pytest.mark.parametrize("devices", [4, 8])
def test_a_stage_of_too_many_devices_has_a_remedy_for_its_memory(
    job_of: JobOf, machines: Machines, devices: int
) -> None:
    job = job_of(f"rollout.cache_bytes={60 << 30}", "cluster.gpu_memory=50000000000")
    assert remedy(job, "rl", machines(devices)) == [f"rollout.cache_bytes={30 << 30}"]


def test_ranks_that_would_share_a_device_are_not_proposed(job_of: JobOf, machines: Machines) -> None:
    reward = ("stages.rl.reward=Qwen/Qwen2.5-72B", "stages.rl.roles.reward={actors: 4, gpus: 0.5}")
    assert remedy(job_of(*reward), "rl", machines(12)) == []


def test_a_reward_that_is_not_of_models_alone_is_not_to_lie_in_parts(job_of: JobOf, machines: Machines) -> None:
    parts = "stages.rl.reward=[{source: Qwen/Qwen2.5-72B}, {source: rules:numeric}]"
    job = job_of(parts, "stages.rl.roles.reward={actors: 4, gpus: 1}")
    assert remedy(job, "rl", machines(12)) == []


def test_what_nothing_mends_has_no_remedy(job_of: JobOf, machines: Machines) -> None:
    job = job_of("stages.rl.model=Qwen/Qwen2.5-72B")
    (misfit, *_) = forecast_of(job, machines(8, "L4")).misfits
    assert misfit.text.endswith("; use devices with more memory, or a smaller model")


def test_one_change_is_proposed_where_it_is_enough(job_of: JobOf, machines: Machines) -> None:
    job = job_of(f"rollout.cache_bytes={60 << 30}", "cluster.gpu_memory=50000000000")
    assert remedy(job, "rl", machines(8)) == [f"rollout.cache_bytes={30 << 30}"]


@pytest.mark.parametrize(("parallel", "fits"), [(2, True), (4, False)])
def test_an_engine_is_not_split_over_machines(job_of: JobOf, machines: Machines, parallel: int, fits: bool) -> None:
    job = job_of("rollout.engines=1", f"rollout.tensor_parallel={parallel}", f"rollout.gpus={parallel}")
    outcome = forecast_of(job, machines(2, count=8))
    assert outcome.fits is fits
    if not fits:
        assert "lower rollout.tensor_parallel to 2" in outcome.misfits[0].text


def test_main_memory_counts_as_well(job_of: JobOf, machines: Machines) -> None:
    (misfit,) = forecast_of(job_of(), machines(memory=2)).misfits
    assert misfit.text.startswith("needs about 3.")
    assert "of main memory, but there are 2.0 GiB; lower its actors" in misfit.text
