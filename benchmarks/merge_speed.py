"""Seconds of merging k models or LoRA adapters of 50M parameters, against one read and one write of the result."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.models import make
from benchmarks.record import record
from rayalign.models.merge import merge_adapters, merge_models
from rayalign.weights.streaming import read_layout

REPEATS = 5
COUNTS = (2, 4)
MEMORY = "/dev/shm"
"""files in memory, so that the pace of a disk, which both sides share, hides nothing"""
LAYERS, WIDTH, RANK = 24, 4096, 64
"""of the adapters, on four projections of each layer: 50.3M parameters"""


def make_adapter(folder: Path, seed: int) -> int:
    """Write an adapter in peft's form; its parameter count."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, WIDTH)
            tensors[f"{name}.lora_B.weight"] = torch.randn(WIDTH, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": RANK, "lora_alpha": RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return sum(tensor.numel() for tensor in tensors.values())


def weights_file(folder: Path) -> Path:
    """The one safetensors file of a folder."""
    return next(folder.glob("*.safetensors"))


def read(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, in memory."""
    return {name: tensor.read() for name, tensor in read_layout(file).items()}


def timed(action: Callable[[], object]) -> float:
    """Seconds of an action."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def measure(inputs: list[Path], out: Path, merge: Callable[[], None]) -> dict[str, Any]:
    """Median seconds of the merge, of reading and writing its result, and of reading the inputs."""
    rows: list[dict[str, float]] = []
    copy = out.with_name("copy.safetensors")
    for _ in range(REPEATS):
        shutil.rmtree(out, ignore_errors=True)
        copy.unlink(missing_ok=True)
        seconds = {"merge": timed(merge)}
        result: dict[str, torch.Tensor] = {}
        seconds["read_result"] = timed(lambda result=result: result.update(read(weights_file(out))))
        seconds["write_result"] = timed(lambda result=result: save_file(result, copy))
        seconds["read_inputs"] = sum(timed(lambda path=path: read(weights_file(path))) for path in inputs)
        rows.append(seconds)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    once = medians["read_result"] + medians["write_result"]
    return {
        "count": len(inputs),
        "result_bytes": weights_file(out).stat().st_size,
        **{f"{name}_seconds": value for name, value in medians.items()},
        "ratio_to_one_read_and_write_of_the_result": medians["merge"] / once,
        "ratio_to_reading_inputs_and_writing_result": medians["merge"]
        / (medians["read_inputs"] + medians["write_result"]),
        "repeats": rows,
    }


def main() -> None:
    """Measure models, and adapters in each mode."""
    figures: dict[str, Any] = {"limit_ratio": 1.5}
    with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        models = [Path(scratch) / f"model-{i}" for i in range(max(COUNTS))]
        adapters = [Path(scratch) / f"adapter-{i}" for i in range(max(COUNTS))]
        figures["model_parameters"] = [make("50M", folder) for folder in models][0]
        figures["adapter_parameters"] = [make_adapter(folder, i) for i, folder in enumerate(adapters)][0]
        for count in COUNTS:
            weights = [1.5 - count / 4] + [0.25] * (count - 1)
            out = Path(scratch) / "out"
            figures[f"models_{count}"] = measure(
                models[:count], out, lambda n=count, w=weights, o=out: merge_models(models[:n], w, o)
            )
            for mode in ("delta", "factor"):
                figures[f"adapters_{mode}_{count}"] = measure(
                    adapters[:count],
                    out,
                    lambda n=count, w=weights, o=out, m=mode: merge_adapters(adapters[:n], w, o, mode=m),
                )
    record("merge_speed", figures)


if __name__ == "__main__":
    main()
