"""Which models of a job vLLM is asked about, and what becomes of its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import load_job
from rayalign.data.chat import train_tokenizer
from rayalign.models.miniature import catalogue_config, shrunk, write_miniature
from rayalign.rehearsal.engine_names import EngineNames, ask_vllm
from rayalign.rehearsal.made_rows import texts
from rayalign.rehearsal.stand_ins import stand_in

JOB = """\
name: study
rollout: {engine: ENGINE, engines: 1, context: 64}
stages:
  answers: {kind: generate, model: MODEL, count: 2, sampling: {max_tokens: 8}}
"""


@pytest.fixture
def answers(tmp_path: Path) -> Callable[[str], EngineNames]:
    """vLLM's answers about a small model, by the engine of the job."""
    tokenizer = train_tokenizer(iter(texts()), 400)
    model = tmp_path / "model"
    write_miniature(shrunk(catalogue_config("Qwen/Qwen2.5-0.5B"), len(tokenizer)), tokenizer, model, scalar=False)

    def ask(engine: str) -> EngineNames:
        (tmp_path / "job.yaml").write_text(JOB.replace("MODEL", str(model)).replace("ENGINE", engine))
        job = load_job(tmp_path / "job.yaml", [f"output={tmp_path / 'runs'}"]).job
        standing = stand_in(job, tmp_path / "rehearsal")
        return ask_vllm(standing.job, standing.models, tmp_path / "names")

    return ask


def test_nobody_asks_vllm_about_a_job_of_local_engines(answers: Callable[[str], EngineNames], tmp_path: Path) -> None:
    assert answers("local") == EngineNames()
    assert not (tmp_path / "names").exists()


@pytest.mark.vllm
def test_what_vllm_takes_is_listed(answers: Callable[[str], EngineNames], tmp_path: Path) -> None:
    names = answers("vllm")
    assert not names.findings
    (change,) = names.changes
    assert (change.kind, change.text) == ("kept", f"vLLM takes the weights of {tmp_path / 'model'}")
