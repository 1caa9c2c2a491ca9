"""The names of a model's weights on the engine's side: would vLLM take what the learner sends?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayalign.config import Job
from rayalign.models.blueprint import blueprint
from rayalign.models.configuration import read_config
from rayalign.pipeline.kind import kinds_of
from rayalign.rehearsal.changes import Change
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.stand_ins import ReadModel
from rayalign.rollout import vllm_runs_on
from rayalign.rollout.vllm import environment
from rayalign.rollout.vllm_names import REFUSAL, SHAPES

LIMIT = 300.0
"""seconds for all models"""
_KEY = "names on the engine's side"
_READER = "from rayalign.rollout.vllm_names import main; main()"


@dataclass(slots=True)
class EngineNames:
    """What came of asking vLLM."""

    findings: list[Finding] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def ask_vllm(job: Job, models: Mapping[str, ReadModel], scratch: Path) -> EngineNames:
    """Have vLLM take the weights of each language model of the job, in a process of its own and without memory.

    Args:
        scratch: takes in a configuration and the shapes of each model.
    """
    language_models = [model for model in models.values() if not model.scalar]
    uses_engines = any(kind.uses_pool(job) for kind in kinds_of(job).values())
    if job.rollout.engine == "local" or not uses_engines or not language_models:
        return EngineNames()
    if vllm_runs_on() != "cpu":
        text = "vLLM can be asked where its CPU build is installed"
        return EngineNames(changes=[Change("not covered", _KEY, text)])
    folders = [_write(model, scratch / str(number)) for number, model in enumerate(language_models)]
    return _answers(language_models, folders, job)


def _write(model: ReadModel, folder: Path) -> Path:
    config = read_config(model.folder)
    plan = blueprint(config)
    config.architectures = [plan.architecture]
    config.save_pretrained(folder)
    (folder / SHAPES).write_text(json.dumps(plan.shapes), encoding="utf-8")
    return folder


def _answers(models: Sequence[ReadModel], folders: Sequence[Path], job: Job) -> EngineNames:
    computing = job.rollout.model_copy(update={"gpus": 0.0, "tensor_parallel": 1})
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _READER, *map(str, folders)],
            env={**os.environ, **environment(computing)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return EngineNames(changes=[Change("not covered", _KEY, f"vLLM did not answer in {LIMIT:g} s")])
    names = EngineNames()
    for model, folder in zip(models, folders, strict=True):
        answer = folder / REFUSAL
        if not answer.exists():
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            names.changes.append(Change("not covered", _KEY, f"{model.name}: vLLM could not be asked ({last})"))
            continue
        reason = json.loads(answer.read_text(encoding="utf-8"))
        if reason is None:
            names.changes.append(Change("kept", _KEY, f"vLLM takes the weights of {model.name}"))
        else:
            text = f"vLLM does not take the weights of {model.name} ({reason}); write rollout.engine: local"
            names.findings.append(Finding("rollout.engine", text))
    return names
