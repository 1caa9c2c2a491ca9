"""Whether vLLM's own model takes weights of some names and shapes, without a device and without the weights.

The model is built on torch's meta device, where a parameter has a shape and no memory. vLLM's loader then gets tensors
of the same kind, and does with them what it does with real ones. This process has to have the variables of
`rollout.vllm.environment`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHAPES = "shapes.json"
"""beside the config.json of a folder: the shape of each tensor by its name"""
REFUSAL = "refusal.json"
"""what vLLM made of them: the reason why it refuses them, or null"""
LONGEST = 64
"""tokens of a context; no weight depends on it"""
Shapes = Mapping[str, tuple[int, ...]]


def main() -> None:
    """Write whether vLLM takes the weights of each folder that the command line names."""
    for folder in map(Path, sys.argv[1:]):
        shapes = json.loads((folder / SHAPES).read_text(encoding="utf-8"))
        try:
            config = _engine_config(folder)
        except ValueError as error:  # pydantic's too, in several lines
            reason: str | None = " ".join(str(error).split())[:300]
        else:
            reason = _ask(config, shapes)
        (folder / REFUSAL).write_text(json.dumps(reason), encoding="utf-8")


def _ask(config: Any, shapes: Shapes) -> str | None:
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            _join()
        return refusal(_meta_model(config), shapes, config.model_config.dtype)


def refusal(model: nn.Module, shapes: Shapes, dtype: torch.dtype) -> str | None:
    """Why a model of vLLM does not take these tensors as all of its weights; None where it does."""
    load_weights: Any = model.load_weights
    try:
        loaded: set[str] = load_weights(_tensors(shapes, dtype))
    except (KeyError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    missing = sorted({name for name, _ in model.named_parameters()} - loaded)
    if missing:
        return f"nothing is loaded into {', '.join(missing[:3])}"
    return None


def _tensors(shapes: Shapes, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, shape in shapes.items():
        yield name, torch.empty(shape, dtype=dtype, device="meta")


def _engine_config(folder: Path) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(folder),
        runner="generate",
        dtype="bfloat16",
        max_model_len=LONGEST,
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
    ).create_engine_config()


def _join() -> None:
    """vLLM's layers ask for their rank, even if it is the only one."""
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    with tempfile.TemporaryDirectory() as folder:
        init_distributed_environment(1, 0, f"file://{folder}/meet", 0, "gloo")
        initialize_model_parallel(1, 1)


def _meta_model(config: Any) -> nn.Module:
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
        model: nn.Module = initialize_model(config)
    return model
