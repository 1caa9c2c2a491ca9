"""Mean lengths of the prompts of a job's stages, where rows and tokenizer are at hand without a network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from rayalign.config import Job, LoadedJob, Reference
from rayalign.data import readers
from rayalign.data.chat import encode_prompt
from rayalign.errors import InputError
from rayalign.forecast.rows import is_at_hand
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import StageKind, kind_of, kinds_of
from rayalign.pipeline.stage_rows import stage_paths

READ = 200
"""prompts of a stage that are read"""


def prompt_lengths(loaded: LoadedJob) -> dict[str, float]:
    """Stage -> mean tokens of its first prompts; stages whose prompts or tokenizer are elsewhere are absent."""
    inputs = Inputs(loaded)
    lengths: dict[str, float] = {}
    for name, kind in kinds_of(loaded.job).items():
        if not _is_readable(loaded.job, kind):
            continue
        try:
            tokens = list(_tokens(loaded.job, kind, inputs))
        except InputError:  # `check` reports it; a forecast goes without the number
            continue
        if tokens:
            lengths[name] = fmean(tokens)
    return lengths


def _tokens(job: Job, kind: StageKind[Any], inputs: Inputs) -> Iterator[int]:
    """The length of each prompt that leaves room for an answer."""
    assert kind.data is not None and kind.sampling is not None
    tokenizer = inputs.tokenizer(kind.prompt_models()[0])
    examples = readers.stream_examples(kind.data, seed=job.seed, use="prompts")
    for example in islice(examples, READ):
        ids = encode_prompt(tokenizer, example.prompt, context=job.rollout.context, reserve=kind.sampling.max_tokens)
        if ids is not None:
            yield len(ids)


def _is_readable(job: Job, kind: StageKind[Any]) -> bool:
    if kind.data is None or kind.sampling is None or kind.data_use != "prompts":
        return False
    if any(stage_paths(kind.data)) or not is_at_hand(kind.data):
        return False
    return bool(kind.prompt_models()) and has_tokenizer(job, kind.prompt_models()[0])


def has_tokenizer(job: Job, model: str) -> bool:
    """Whether the tokenizer of a model needs no hub: it comes from a preset or a local folder."""
    reference = Reference.parse(model)
    if reference is None:
        return model.startswith("preset:") or Path(model).is_dir()
    source = kind_of(job.stages[reference.stage]).source(reference.role)
    return source is None or has_tokenizer(job, source)
