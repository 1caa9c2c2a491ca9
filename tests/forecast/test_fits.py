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
