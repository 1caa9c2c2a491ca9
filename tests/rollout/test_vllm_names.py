"""vLLM's own models and loaders, on the meta device, at full size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, PretrainedConfig

from rayalign.config import RolloutConfig
from rayalign.models.blueprint import blueprint
from rayalign.models.miniature import catalogue_config
from rayalign.rollout.vllm import environment
from rayalign.rollout.vllm_names import REFUSAL, SHAPES, main

pytestmark = [pytest.mark.vllm]
KNOWN = {
    "llama": "meta-llama/Llama-3.1-8B",
    "qwen2": "Qwen/Qwen2.5-7B",
    "tied": "Qwen/Qwen2.5-0.5B",
    "qwen3": "Qwen/Qwen3-8B",
    "gemma2": "google/gemma-2-2b",
    "gemma3": "google/gemma-3-4b-it",
    "mistral": "mistralai/Mistral-7B-v0.3",
}
QUERY = "model.layers.3.self_attn.q_proj.weight"
NORM = "model.layers.3.input_layernorm.weight"


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What vLLM says of each known model, and of mistakes in one of them."""
    folder = tmp_path_factory.mktemp("names")
    for name, model in KNOWN.items():
        write(folder / name, catalogue_config(model))
    write(folder / "unknown", AutoConfig.for_model("openai-gpt"))
    qwen = catalogue_config(KNOWN["qwen2"])
    shapes = write(folder / "renamed", qwen)
    shapes["model.layers.3.self_attn.query.weight"] = shapes.pop(QUERY)
    (folder / "renamed" / SHAPES).write_text(json.dumps(shapes))
    shapes = write(folder / "lacks", qwen)
    del shapes[NORM]
    (folder / "lacks" / SHAPES).write_text(json.dumps(shapes))
    shapes = write(folder / "shape", qwen)
    shapes[NORM] = (17,)
    (folder / "shape" / SHAPES).write_text(json.dumps(shapes))
    asked = [*KNOWN, "unknown", "renamed", "lacks", "shape"]
    code = f"from {main.__module__} import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *(str(folder / name) for name in asked)],
        env={**os.environ, **environment(RolloutConfig())},
        check=True,
        timeout=300,
    )
    return {name: json.loads((folder / name / REFUSAL).read_text()) for name in asked}


def write(folder: Path, config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    plan = blueprint(config)
    config.architectures = [plan.architecture]
    config.save_pretrained(folder)
    (folder / SHAPES).write_text(json.dumps(plan.shapes))
    return dict(plan.shapes)


@pytest.mark.parametrize("name", KNOWN)
def test_vllm_takes_the_weights_of_a_known_model_at_full_size(refusals: dict[str, str | None], name: str) -> None:
    assert refusals[name] is None


def test_a_name_that_vllm_does_not_know_is_refused(refusals: dict[str, str | None]) -> None:
    assert "query" in (refusals["renamed"] or "")


def test_a_tensor_that_does_not_come_is_named(refusals: dict[str, str | None]) -> None:
    assert refusals["lacks"] == f"nothing is loaded into {NORM}"


def test_an_architecture_that_vllm_lacks_is_refused(refusals: dict[str, str | None]) -> None:
    assert "OpenAIGPTLMHeadModel" in (refusals["unknown"] or "")


def test_another_shape_is_refused(refusals: dict[str, str | None]) -> None:
    assert refusals["shape"]
