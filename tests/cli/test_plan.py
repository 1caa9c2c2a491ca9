from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rayalign.cli import app
from rayalign.forecast import forecast as forecasts
from rayalign.forecast import splits as divisions
from tests.forecast.conftest import JOB as LARGE
from tests.forecast.test_measured import JOB as SMALL
from tests.forecast.test_measured import write_run

CLUSTER = "nodes: {{box: {{cpus: 64, memory: 512, devices: {devices}, device: {device}, link: 450, price: 20}}}}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYALIGN_CACHE", str(tmp_path / "cache"))
    Path("large.yaml").write_text(LARGE)
    Path("small.yaml").write_text(SMALL)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def cluster(devices: int = 8, device: str = "H100") -> str:
    Path("cluster.yaml").write_text(CLUSTER.format(devices=devices, device=device))
    return "cluster.yaml"


def test_without_a_cluster_it_is_the_plan_with_its_memory() -> None:
    result = call("small.yaml")
    assert result.exit_code == 0, result.stderr
    assert "32 prompts x 4 candidates = 128 samples" in result.stdout
    assert "of it processes" in result.stdout
    assert "whole run" not in result.stdout


def test_a_forecast_names_ranges_their_grounds_and_the_best_division() -> None:
    result = call("large.yaml", "--cluster", cluster())
    assert result.exit_code == 0, result.stderr
    assert "study on 1 x box (8 x H100): it fits" in result.stdout
    assert "USD at 20 USD an hour" in result.stdout
    assert "the bottleneck is " in result.stdout
    assert "best: rollout.engines=" in result.stdout
    assert "not measured on H100; published MFU" in result.stdout


def test_a_job_that_does_not_fit_ends_with_the_remedy() -> None:
    result = call("large.yaml", "--cluster", cluster(devices=4))
    assert result.exit_code == 2
    assert "it does not fit" in result.stdout
    assert result.stderr.startswith("rayalign: rl: needs 5 devices, but there are 4; lower rollout.engines")


def test_an_unknown_device_is_one_sentence() -> None:
    result = call("large.yaml", "--cluster", cluster(device="H1000"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "device H1000 is not in the catalogue" in result.stderr


def test_a_run_calibrates_this_machine(folder: Path) -> None:
    run = write_run(folder / "run")
    result = call("small.yaml", "--cluster", "local", "--calibrate", str(run))
    assert result.exit_code == 0, result.stderr
    assert f"records in {folder / 'cache' / 'calibration.json'}" in result.stdout
    again = call("small.yaml", "--cluster", "local")
    assert "measured/ppo, 6 iterations" in again.stdout
    assert "the machines have no price" in again.stdout


def test_several_sizes_are_compared() -> None:
    text = CLUSTER.format(devices=4, device="H100").replace("{cpus", "{count: 1, max_count: 2, cpus")
    Path("cluster.yaml").write_text(text)
    result = call("large.yaml", "--cluster", "cluster.yaml")
    assert result.exit_code == 0, result.stderr
    assert "study on 2 x box (4 x H100): it fits" in result.stdout
    assert "best division" in result.stdout


def test_the_smallest_size_that_fits_is_shown(folder: Path) -> None:
    text = CLUSTER.format(devices=4, device="H100").replace("{cpus", "{count: 1, max_count: 3, cpus")
    Path("cluster.yaml").write_text(text)
    result = call("large.yaml", "--cluster", "cluster.yaml")
    assert "study on 2 x box (4 x H100): it fits" in result.stdout
    lines = result.stdout.splitlines()
    best = next(line for line in lines if line.startswith("  2 for engines, 2 for training: "))
    for count, line in enumerate((line for line in lines if " x box (4 x H100)   " in line), start=1):
        assert line.split()[0] == str(count)
        assert best.partition(": ")[2] in line, "the time of the best division, not of the job as it is"


def test_a_stage_without_a_time_says_why(folder: Path) -> None:
    result = call("large.yaml", "stages.rl.model=someone/unheard-of", "--cluster", cluster())
    assert "rl: the sizes of a model are not known here; name a local folder to have its time" in result.stdout
    assert "study on 1 x box (8 x H100): whether it fits is unknown\n" in result.stdout
    assert re.search(r"\n rl +unknown +unknown +\n", result.stdout), "fits, and whole time"
    assert "whole run: unknown\n" in result.stdout
    assert "at least 3.0 GiB" in result.stdout
    assert "0.01" not in result.stdout and "best: " not in result.stdout


def test_a_model_of_unknown_size_is_unknown_for_every_number_of_machines() -> None:
    text = CLUSTER.format(devices=8, device="H100").replace("{cpus", "{count: 1, max_count: 2, cpus")
    Path("cluster.yaml").write_text(text)
    result = call("large.yaml", "stages.rl.model=someone/unheard-of", "--cluster", "cluster.yaml")
    rows = [line.split() for line in result.stdout.splitlines() if " x box (8 x H100)   " in line]
    assert [row[-3:] for row in rows] == [["unknown"] * 3] * 2, "fits, whole time and cost"


def test_stages_of_known_sizes_are_timed_without_the_others() -> None:
    sft = "stages.sft={kind: train, algorithm: {name: sft}, model: someone/other, learner: {minibatch: 8}, steps: 9}"
    result = call("large.yaml", sft, "--cluster", cluster())
    assert re.search(r"\n rl +yes +iteration", result.stdout)
    assert re.search(r"\n sft +unknown +unknown +\n", result.stdout)
    assert re.search(r"\nwhole run: .* to .*; without sft\n", result.stdout)
    assert "best: rollout.engines=" in result.stdout


def recorded(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each call of a function, which still does its work."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    function = getattr(module, name)

    def record(*arguments: Any, **keywords: Any) -> Any:
        calls.append((arguments, keywords))
        return function(*arguments, **keywords)

    monkeypatch.setattr(module, name, record)
    return calls


@pytest.mark.parametrize(("where", "local"), [("local", True), ("cluster.yaml", False)])
def test_forecast_and_divisions_rest_on_the_prompts_and_the_measurements_at_hand(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, local: bool
) -> None:
    cluster()
    call("small.yaml", "--cluster", where, "--calibrate", str(write_run(folder / "run")))
    timed = recorded(monkeypatch, forecasts, "forecast")
    divided = recorded(monkeypatch, divisions, "splits")
    result = call("small.yaml", "--cluster", where)
    assert result.exit_code == 0, result.stderr
    assert "tokens, as read, answers of" in result.stdout
    ((job, hardware, calibration), keywords) = timed[0]
    assert keywords["local"] is local and keywords["prompts"].keys() == {"ppo"}
    own = [record for record in calibration.records if record.source.startswith("measured/ppo")]
    assert own and {record.device for record in own} == {hardware.calibrated_by}
    (((again, same, grounds, prompts), _),) = divided
    assert (again, same, prompts) == (job, hardware, keywords["prompts"])
    assert grounds is calibration
