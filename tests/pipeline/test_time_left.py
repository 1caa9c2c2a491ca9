from __future__ import annotations

from pathlib import Path

from rayalign.config import Job
from rayalign.pipeline.kind import kinds_of
from rayalign.pipeline.time_left import later_stages
from rayalign.storage.console import Later
from rayalign.storage.summary import write_done


def test_later_stages_take_as_long_as_their_likes(tmp_path: Path) -> None:
    sft = {"kind": "train", "algorithm": {"name": "sft"}, "model": "preset:nano"}
    stages = {"a": sft, "b": sft, "c": sft, "test": {"kind": "evaluate", "models": {"a": "stage:a"}}}
    job = Job.model_validate({"name": "j", "output": str(tmp_path), "stages": stages})
    kinds = kinds_of(job)
    assert later_stages(job, [kinds["c"], kinds["test"]]) == Later(0.0, is_whole=False)
    for name, seconds in (("a", 10.0), ("b", 20.0)):
        write_done(tmp_path / "j" / "stages" / name, "hash", seconds=seconds)
    assert later_stages(job, [kinds["c"]]) == Later(15.0)
    assert later_stages(job, [kinds["c"], kinds["test"]]) == Later(15.0, is_whole=False)
    assert later_stages(job, []) == Later()
