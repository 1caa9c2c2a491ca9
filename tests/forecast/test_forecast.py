from __future__ import annotations

from dataclasses import replace

import pytest

from rayalign.forecast.calibration import Calibration, Record
from rayalign.forecast.forecast import Forecast, StageForecast, forecast
from rayalign.forecast.iteration import PHASES
from rayalign.forecast.seconds import BUSY_CORES
from rayalign.forecast.timing import Span
from tests.forecast.conftest import JobOf, Machines

NOTHING_MEASURED = Calibration([])


def stage_of(outcome: Forecast, name: str = "rl") -> StageForecast:
    return next(stage for stage in outcome.stages if stage.name == name)


def test_an_online_stage_has_a_range_for_each_phase_and_for_the_run(job_of: JobOf, machines: Machines) -> None:
    outcome = forecast(job_of(), machines(), NOTHING_MEASURED)
    stage = stage_of(outcome)
    assert outcome.fits
    assert set(stage.phases) == set(PHASES) - {"turn"}
    for time in stage.phases.values():
        assert 0 < time.seconds.low < time.seconds.middle < time.seconds.high
        assert not time.share.measured
    total = sum(time.seconds.middle for time in stage.phases.values())
    assert stage.seconds.middle == pytest.approx(total)
    assert outcome.hours.middle == pytest.approx(100 * total / 3600)
    assert outcome.cost is not None
    assert outcome.cost.high == pytest.approx(20 * outcome.hours.high)


def test_overlapped_phases_last_as_long_as_the_longer_side(job_of: JobOf, machines: Machines) -> None:
    stage = stage_of(forecast(job_of("stages.rl.max_staleness=1"), machines(), NOTHING_MEASURED))
    writing = stage.phases["generate"].seconds.middle
    rest = sum(time.seconds.middle for phase, time in stage.phases.items() if phase != "generate")
    assert stage.seconds.middle == pytest.approx(max(writing, rest))


def test_without_a_price_there_is_no_cost(job_of: JobOf, machines: Machines) -> None:
    assert forecast(job_of(), machines(price=None), NOTHING_MEASURED).cost is None


def test_measured_shares_decide_the_seconds(job_of: JobOf, machines: Machines) -> None:
    def calibration(share: float) -> Calibration:
        record = Record(
            device="H100", phase="update", share=share, parameters=494_000_000, actors=2, prompt=100, answer=100,
            data="hh", source="run/rl",
        )  # fmt: skip
        return Calibration([record])

    fast = stage_of(forecast(job_of(), machines(), calibration(0.5))).phases["update"]
    slow = stage_of(forecast(job_of(), machines(), calibration(0.25))).phases["update"]
    assert slow.seconds.middle == pytest.approx(2 * fast.seconds.middle)
    assert fast.share.measured
    assert fast.share.source == "run/rl"


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B"), ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B")],
)
def test_a_larger_model_takes_neither_less_memory_nor_less_time(
    job_of: JobOf, machines: Machines, smaller: str, larger: str
) -> None:
    small, large = (
        forecast(job_of(f"stages.rl.model={model}"), machines(), NOTHING_MEASURED) for model in (smaller, larger)
    )
    for device, claim in small.plan.stages[0].device_memory.items():
        assert large.plan.stages[0].device_memory[device] >= claim
    for phase in ("generate", "evaluate", "update", "publish"):
        assert stage_of(large).phases[phase].seconds.middle >= stage_of(small).phases[phase].seconds.middle


@pytest.mark.parametrize("engines", [1, 2, 4])
def test_more_engines_never_write_slower(job_of: JobOf, machines: Machines, engines: int) -> None:
    def writing(count: int) -> Span:
        outcome = forecast(job_of(f"rollout.engines={count}"), machines(16), NOTHING_MEASURED)
        return stage_of(outcome).phases["generate"].seconds

    assert writing(2 * engines).middle <= writing(engines).middle


@pytest.mark.parametrize("slower", ["L4", "A100"])
def test_a_faster_device_is_never_slower(job_of: JobOf, machines: Machines, slower: str) -> None:
    slow = stage_of(forecast(job_of(), machines(device=slower), NOTHING_MEASURED))
    fast = stage_of(forecast(job_of(), machines(device="H100"), NOTHING_MEASURED))
    assert fast.seconds.middle <= slow.seconds.middle


def test_an_offline_stage_counts_its_steps(job_of: JobOf, machines: Machines) -> None:
    offline = (
        "stages.sft={kind: train, algorithm: {name: sft}, model: Qwen/Qwen2.5-0.5B, data: {limit: 6400}, epochs: 3, "
        "learner: {minibatch: 64, precision: bf16}, roles: {policy: {gpus: 1}}}"
    )
    stage = stage_of(forecast(job_of(offline), machines(), NOTHING_MEASURED), "sft")
    assert (stage.unit, stage.count) == ("step", 300)
    assert stage.total == stage.seconds * 300


def test_rows_that_are_not_here_leave_the_total_open(job_of: JobOf, machines: Machines) -> None:
    offline = "stages.sft={kind: train, algorithm: {name: sft}, model: Qwen/Qwen2.5-0.5B, data: {path: some/hub}}"
    outcome = forecast(job_of(offline), machines(), NOTHING_MEASURED)
    stage = stage_of(outcome, "sft")
    assert stage.count is None and "data.limit says how many" in stage.unknown
    assert outcome.untimed == ["sft"]


@pytest.mark.parametrize(
    ("override", "unsized"),
    [
        ("stages.rl.reward=Qwen/Qwen2.5-1.5B", []),
        ("stages.rl.reward=rules:length", []),
        ("stages.rl.reward=someone/unheard-of", ["rl"]),
        ("stages.rl.model=someone/unheard-of", ["rl"]),
    ],
)
def test_only_a_model_of_unknown_sizes_leaves_open_whether_a_stage_fits(
    job_of: JobOf, machines: Machines, override: str, unsized: list[str]
) -> None:
    assert forecast(job_of(override), machines(), NOTHING_MEASURED).unsized == unsized


def test_a_model_of_unknown_sizes_has_no_time(job_of: JobOf, machines: Machines) -> None:
    stage = stage_of(forecast(job_of("stages.rl.model=some/model"), machines(), NOTHING_MEASURED))
    assert stage.unit == "" and "name a local folder" in stage.unknown


def test_devices_are_those_of_the_cluster_file_and_not_of_the_job(job_of: JobOf, machines: Machines) -> None:
    outcome = forecast(job_of("cluster.gpu_memory=1000", "cluster.gpus=2"), machines(), NOTHING_MEASURED)
    assert outcome.plan.device_bytes == 79 * 2**30
    assert outcome.fits


def test_stages_of_prompts_that_were_read_rest_on_them(job_of: JobOf, machines: Machines) -> None:
    drawing = "stages.draws={kind: generate, model: Qwen/Qwen2.5-0.5B, count: 2, data: {limit: 64}}"
    prompts = {"rl": 40.0, "draws": 60.0}
    outcome = forecast(job_of(drawing), machines(), NOTHING_MEASURED, prompts=prompts)
    assert "prompts of 40 to 40 tokens, as read" in stage_of(outcome).lengths
    assert "prompts of 60 to 60 tokens, as read" in stage_of(outcome, "draws").lengths


def test_a_phase_takes_the_measurement_of_models_and_actors_like_its_own(job_of: JobOf, machines: Machines) -> None:
    records = []
    for parameters, actors in ((494_000_000, 2), (494_000_000, 1), (7_000_000, 2), (7_000_000, 1)):
        source = f"{parameters} in {actors}"
        record = Record(
            device="H100", phase="update", share=0.3, parameters=parameters, actors=actors, prompt=100, answer=100,
            data="hh", source=source,
        )  # fmt: skip
        records.append(record)
    stage = stage_of(forecast(job_of(), machines(), Calibration(records)))
    assert stage.phases["update"].share.source == "494000000 in 2"


def test_bf16_is_timed_by_its_own_peak(job_of: JobOf, machines: Machines) -> None:
    fast, slow = (
        stage_of(forecast(job_of(f"stages.rl.learner.precision={each}"), machines(), NOTHING_MEASURED))
        for each in ("bf16", "fp32")
    )
    assert slow.phases["update"].seconds.middle > 2 * fast.phases["update"].seconds.middle


def test_overlapped_work_is_no_faster_than_its_cores(job_of: JobOf, machines: Machines) -> None:
    settings = ("rollout.gpus=0", "stages.rl.max_staleness=1", "stages.rl.roles={policy: {actors: 2}}")
    machine = machines(0)
    few_cores = replace(machine, total=replace(machine.total, cpus=2.0))
    stage = stage_of(forecast(job_of(*settings), few_cores, NOTHING_MEASURED))
    core_seconds = sum(time.core_seconds.middle for time in stage.phases.values())
    writing = stage.phases["generate"].seconds.middle
    rest = sum(time.seconds.middle for phase, time in stage.phases.items() if phase != "generate")
    assert stage.seconds.middle == pytest.approx(core_seconds / (BUSY_CORES * 2))
    assert stage.seconds.middle > max(writing, rest)


def test_stages_that_take_turns_do_not_overlap(job_of: JobOf, machines: Machines) -> None:
    shared = ("cluster.share_devices=true", "stages.rl.roles={policy: {actors: 2, gpus: 0.5}}")
    outcome = forecast(job_of(*shared), machines(), NOTHING_MEASURED)
    stage = stage_of(outcome)
    assert outcome.plan.stages[0].shared and stage.phases["turn"].seconds.middle > 0
    assert stage.seconds.middle == pytest.approx(sum(time.seconds.middle for time in stage.phases.values()))
