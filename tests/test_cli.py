from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import rayalign
from rayalign.cli import app
from rayalign.config import LoadedJob
from rayalign.errors import ActorError
from rayalign.storage.summary import write_summary

JOB = """\
name: small
stages:
  base: {kind: pretrain}
  sft: {kind: train, algorithm: {name: sft}, model: stage:base}
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a sound job; the working folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYALIGN_DEBUG", raising=False)
    Path("job.yaml").write_text(JOB)
    return "job.yaml"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def end_with(error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a run in the runner's place that ends so; nothing is started."""

    def run(loaded: LoadedJob) -> Path:
        if error is not None:
            raise error
        return Path(loaded.job.output) / loaded.job.name

    monkeypatch.setattr(rayalign, "run", run, raising=False)


def test_check_shows_stages_roles_and_arithmetic(job: str) -> None:
    result = call("check", job, "stages.sft.learner.minibatch=48")
    assert result.exit_code == 0, result.stderr
    assert "sft (train)  will run: never ran" in result.stdout
    assert "48 samples a step, at most 1 epochs" in result.stdout
    assert "policy*" in result.stdout and "stage:base" in result.stdout and "984.2k" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", ["check", "run"])
def test_the_recognised_format_is_reported(job: str, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    end_with(None, monkeypatch)
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/job.yaml").write_text(JOB)
    write_summary(Path("runs/small/summary.json"), [], [], [])
    Path("rows.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}) + "\n")
    result = call(command, job, "stages.sft.data={path: rows.jsonl}")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("data: rows.jsonl, read as comparisons\n") == 1
    named = call(command, job, "stages.sft.data={path: rows.jsonl, format: comparisons}")
    assert named.exit_code == 0 and "read as" not in named.stdout


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sed=3", "rayalign: command line: sed is not known; did you mean seed?\n"),
        ("stages.sft.model=stage:bas",
         "rayalign: command line: stages.sft.model: there is no stage 'bas'; did you mean base?\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["check", "run"])
def test_wrong_input_is_one_line_and_exit_code_2(job: str, command: str, override: str, line: str) -> None:
    result = call(command, job, override)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", line)


def test_run_shows_the_roles_then_the_results_and_the_report(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(None, monkeypatch)
    folder = Path("elsewhere") / "small"
    folder.mkdir(parents=True)
    result = {"name": "sft", "metric": "gold_utility", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    stages = [{"name": "sft", "status": "finished", "seconds": 2.0, "fixed_seconds": 1.5}]
    method = {"name": "sft", "gold_utility": 0.5, "models": 1, "training": 2.0}
    doubted = {"name": "rm", "metric": "reward_accuracy", "mean": 0.52, "low": 0.45, "high": 0.59, "n": 9}
    cut = {"name": "sft", "metric": "answers_cut", "mean": 0.9, "low": 0.8, "high": 1.0, "n": 9}
    write_summary(folder / "summary.json", [result, doubted, cut], [], stages, 1 << 30, [method])
    (folder / "job.yaml").write_text("stages: {ppo: {kind: train, reward: 'stage:rm'}}")
    told = call("run", job, "output=elsewhere")
    assert told.exit_code == 0, told.stderr
    assert "models in memory" in told.stdout
    assert "policy*" in told.stdout and "0.5 [0.4, 0.6]" in told.stdout and "1.00 GiB" in told.stdout
    assert told.stdout.endswith("report: elsewhere/small/report.html\n")
    # what speaks against a figure comes before it, and stands beside it
    doubt = "which may be chance. The results of ppo depend on it and may be meaningless."
    assert told.stdout.index(doubt) < told.stdout.index("0.5 [0.4, 0.6]")
    assert re.search(r"gold_utility +0.5 \[0.4, 0.6\] +9 +90% cut", told.stdout)


def test_a_failure_is_told_without_a_traceback(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(ActorError("policy died"), monkeypatch)
    result = call("run", job)
    assert (result.exit_code, result.stderr) == (1, "rayalign: policy died\n")
    monkeypatch.setenv("RAYALIGN_DEBUG", "1")
    assert isinstance(call("run", job).exception, ActorError)


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/full/run/report.html"), "/full/run"),
        (OSError(errno.ENOSPC, "No space left on device"), "a disk that this command writes to"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 9 vs 8"), "a disk that this command"),
    ],
)
def test_a_full_disk_is_told_without_a_traceback(
    job: str, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    def write_report(run: Path) -> Path:
        raise error

    monkeypatch.setattr(rayalign, "write_report", write_report, raising=False)
    result = call("report", ".")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"rayalign: no space left on {place}")
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("RAYALIGN_DEBUG", "1")
    assert call("report", ".").exception is error


def test_a_defect_keeps_its_traceback(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(KeyError("a"), monkeypatch)
    assert isinstance(call("run", job).exception, KeyError)


def test_an_interrupt_says_how_to_go_on(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(KeyboardInterrupt(), monkeypatch)
    result = call("run", job)
    assert result.exit_code == 130
    assert result.stderr == "rayalign: interrupted; the same command goes on where this one stopped\n"


def test_a_missing_run_has_no_report(job: str) -> None:
    result = call("report", "runs/none")
    assert (result.exit_code, result.stderr) == (2, "rayalign: runs/none: there is no such run folder\n")


def test_schema_is_that_of_a_job(job: str) -> None:
    schema = json.loads(call("schema").stdout)
    assert {"name", "stages", "rollout"} <= schema["properties"].keys()


def test_doctor_reports_and_its_code_says_whether_something_conflicts() -> None:
    result = call("doctor")
    assert f"ok        pydantic {__import__('pydantic').VERSION}" in result.stdout
    assert result.exit_code == int(any(line.startswith("conflict") for line in result.stdout.splitlines()))


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], ["ray", "transformers", "vllm", "deepspeed", "torch", "pydantic"]),
        (["schema"], ["ray", "transformers", "vllm", "deepspeed"]),
        (["check", "job.yaml"], ["ray", "transformers", "vllm", "deepspeed", "datasets"]),
        (["evaluate", "win-rate", "--help"], ["ray", "transformers", "torch", "numpy"]),
        (["evaluate", "win-rate", "annotations.json"], ["ray", "transformers", "torch"]),
    ],
)
def test_heavy_libraries_stay_out(job: str, arguments: list[str], absent: list[str]) -> None:
    rows = [{"instruction": q, "output_1": "a", "output_2": "b", "preference": p} for q, p in (("q", 1), ("r", 2))]
    names = {"generator_1": "base", "generator_2": "model", "annotator": "judge"}
    Path("annotations.json").write_text(json.dumps([row | names for row in rows]))
    program = (
        f"import sys; sys.argv = ['rayalign', *{arguments!r}]\n"
        "from rayalign.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('loaded:', [m for m in {absent!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("loaded: []\n"), done.stdout + done.stderr
