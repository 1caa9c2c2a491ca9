"""The runner where no stage needs a process of its own: everything is finished but, at times, the annotation."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayalign.config import DataConfig, LoadedJob
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.pipeline.hashing import stage_hashes, stage_states
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.runner import _prove, run
from rayalign.storage.records import encode, read_jsonl, write_jsonl
from rayalign.storage.summary import read_done, write_done
from rayalign.types import Candidate, Example

RESULT = {"name": "rl", "metric": "gold_utility", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
Study = Callable[..., LoadedJob]


def finish(loaded: LoadedJob, *, leave: str = "") -> Path:
    """Make every stage look finished, but one; the run's folder."""
    folder = Path(loaded.job.output) / loaded.job.name
    for name, mark in stage_hashes(loaded.job).items():
        if name != leave:
            figures = {"results": [RESULT], "comparisons": []} if name == "test" else {}
            write_done(folder / "stages" / name, mark, seconds=2.0, fixed_seconds=1.0, **figures)
    return folder


def draws(folder: Path, stage: str, *answers: str) -> None:
    """What the stage before the annotation made."""
    (example,) = load_examples(DataConfig(split="preference", limit=1), seed=0, use="prompts")
    row = Example(example.prompt, tuple(Candidate(text) for text in answers))
    write_jsonl(folder / "stages" / stage / "records.jsonl", [encode(row)])


def test_a_finished_run_starts_nothing_and_is_summed_up(study: Study) -> None:
    loaded = study()
    folder = finish(loaded)
    assert run(loaded) == folder
    assert (folder / "events.jsonl").read_text() == ""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"] == [RESULT]
    assert summary["peak_memory_bytes"] > 1 << 20, "also of a run that is over before the first look at its memory"
    rl = {"name": "rl", "models": 4, "training": 2.0, "gold_utility": 0.5}
    assert summary["methods"] == [{"name": "sft", "models": 1, "training": 2.0}, rl]
    assert [(s["name"], s["status"], s["seconds"], s["fixed_seconds"]) for s in summary["stages"]] == [
        (name, "finished", 2.0, 1.0) for name in loaded.job.stages
    ]
    assert (folder / "report.html").is_file()
    assert (folder / "job.yaml").is_file()


def test_figures_of_an_earlier_job_are_not_this_ones(study: Study) -> None:
    """Another mark than this job's stands on the last stage, an annotation that fails after one that does not."""
    again = ("stages.one={kind: generate, model: stage:sft}", "stages.again={kind: annotate, examples: stage:one}")
    loaded = study(*again)
    folder = finish(loaded, leave="verdicts")
    draws(folder, "draws", "yes .", "no .")
    draws(folder, "one", "yes .", "yes .")
    other = {"results": [{**RESULT, "name": "other"}], "comparisons": []}
    write_done(folder / "stages" / "again", "other", seconds=2.0, fixed_seconds=1.0, **other)
    with pytest.raises(InputError, match="no prompt with two different answers"):
        run(loaded)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"] == [RESULT]
    assert {s["name"]: s["status"] for s in summary["stages"]}["again"] == "open"


def test_the_peak_of_memory_is_that_of_all_starts(study: Study) -> None:
    loaded = study()
    folder = finish(loaded)
    (folder / "summary.json").write_text(json.dumps({"peak_memory_bytes": 1 << 60}))
    run(loaded)
    assert json.loads((folder / "summary.json").read_text())["peak_memory_bytes"] == 1 << 60


def test_the_stage_that_is_not_done_runs_and_is_marked(study: Study) -> None:
    loaded = study()
    folder = finish(loaded, leave="verdicts")
    draws(folder, "draws", "yes", "no")
    run(loaded)
    (row,) = read_jsonl(folder / "stages" / "verdicts" / "records.jsonl")
    assert {row["first"]["text"], row["second"]["text"]} == {"yes", "no"}
    assert set(stage_states(loaded.job).values()) == {"finished"}
    done = read_done(folder / "stages" / "verdicts")
    assert done is not None and done["rows"] == 1
    events = [row["event"] for row in read_jsonl(folder / "events.jsonl")]
    assert events == ["run_started", "stage_started", "stage_finished"]


@pytest.mark.parametrize("mark", ["of another job", None])
def test_what_a_different_job_left_of_a_stage_is_not_taken_for_its_own(study: Study, mark: str | None) -> None:
    loaded = study()
    folder = finish(loaded, leave="verdicts")
    draws(folder, "draws", "yes", "no")
    stage, journal = folder / "stages" / "verdicts", folder / "journal" / "verdicts.jsonl"
    journal.parent.mkdir()
    journal.write_text("old\n")
    stage.mkdir()
    (stage / "old").write_text("old")
    if mark is not None:
        (stage / "hash").write_text(mark)
    run(loaded)
    assert not (stage / "old").exists()
    assert not journal.exists()


def test_what_the_same_job_left_of_a_stage_is_gone_on_with(study: Study) -> None:
    loaded = study()
    folder = finish(loaded, leave="verdicts")
    draws(folder, "draws", "yes", "no")
    stage, journal = folder / "stages" / "verdicts", folder / "journal" / "verdicts.jsonl"
    journal.parent.mkdir()
    journal.write_text("own\n")
    stage.mkdir()
    (stage / "checkpoint").write_text("own")
    (stage / "hash").write_text(stage_hashes(loaded.job)["verdicts"])
    run(loaded)
    assert (stage / "checkpoint").read_text() == "own"
    assert journal.read_text() == "own\n"


def test_a_stage_that_fails_is_not_marked(study: Study) -> None:
    loaded = study()
    folder = finish(loaded, leave="verdicts")
    draws(folder, "draws", "yes", "yes")
    with pytest.raises(InputError, match="stage:draws has no prompt with two different answers"):
        run(loaded)
    assert read_done(folder / "stages" / "verdicts") is None
    assert stage_states(loaded.job)["verdicts"] == "will run: never ran"


def test_ray_starts_while_the_inputs_are_proven(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until the other has begun, which neither could one after the other."""
    proving, starting = threading.Event(), threading.Event()

    class Session:
        def __init__(self, config: object) -> None: ...

        def __enter__(self) -> Session:
            starting.set()
            assert proving.wait(10), "the session starts first, and the proof after it"
            return self

        def __exit__(self, *failure: object) -> None: ...

    class ProvenInputs:
        def check(self) -> None:
            proving.set()
            assert starting.wait(10), "the proof comes first, and the session after it"

    idle = SimpleNamespace(start=lambda hosting: None, reserve=lambda hosting: None)
    monkeypatch.setattr("rayalign.cluster.session.Session", Session)
    monkeypatch.setattr("rayalign.cluster.workers.Workers", lambda cluster: idle)
    with ExitStack() as running:
        session, workers = _prove(study(), cast("Inputs", ProvenInputs()), running)
    assert isinstance(cast("Any", session), Session)
    assert workers is idle


@pytest.mark.parametrize(
    ("stages", "reserved"), [(("draws", "rl"), set()), (("rl",), set()), (("rm", "rl"), {"reward"})]
)
def test_roles_reserve_nothing_that_engines_need_before_them(
    study: Study, monkeypatch: pytest.MonkeyPatch, stages: tuple[str, ...], reserved: set[str]
) -> None:
    """Processes start beside the proof of the inputs; roles share all CPUs that are free."""
    asked: dict[str, set[str]] = {"start": set(), "reserve": set()}
    idle = SimpleNamespace(
        start=lambda hosting: asked["start"].update(hosting), reserve=lambda hosting: asked["reserve"].update(hosting)
    )
    monkeypatch.setattr("rayalign.cluster.session.Session", lambda config: nullcontext())
    monkeypatch.setattr("rayalign.cluster.workers.Workers", lambda cluster: idle)
    monkeypatch.setattr(
        "rayalign.pipeline.runner.unfinished", lambda job: {name: kind_of(job.stages[name]) for name in stages}
    )
    with ExitStack() as running:
        _prove(study(), cast("Inputs", SimpleNamespace(check=lambda: None)), running)
    assert asked["start"]
    assert asked["reserve"] == reserved


LATE = ("ray.serve", "ray.train", "vllm", "deepspeed", "transformers.models.auto", "transformers.models.llama")
"""what the process of a run imports where a stage uses it, or never; torch is there already, since an algorithm's
settings stand beside its mathematics"""


def test_a_run_has_proven_its_inputs_and_imported_ray_without_the_large_libraries(study: Study) -> None:
    loaded = study(*(f"stages.{name}.data.limit=50" for name in ("sft", "draws", "rl", "test")))
    code = (
        "import sys; from pathlib import Path; from rayalign.config import load_job; "
        "import rayalign.pipeline.runner, rayalign.cluster.session, rayalign.cluster.workers; "
        "from rayalign.pipeline.inputs import Inputs; "
        "Inputs(load_job(Path(sys.argv[1]))).check(); "
        f"print([name for name in ('ray', *{LATE}) if name in sys.modules])"
    )
    job = Path(loaded.job.output).parent / "resolved.yaml"
    job.write_text(loaded.resolved())
    output = subprocess.run([sys.executable, "-c", code, str(job)], check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "['ray']"
