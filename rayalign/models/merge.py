"""Merge models, or LoRA adapters, into the weighted sum of their parameters (a soup).

Rewarded soups (Ramé et al. 2023, arXiv 2306.04488) and Personalized Soups (Jang et al. 2023, arXiv 2310.11564) average
models that share one base: theta = sum_i w_i theta_i. Weights may be negative and need not sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayalign.errors import InputError
from rayalign.models.adapted_model import write_adapted
from rayalign.models.adapter_folder import AdapterFolder, same_targets
from rayalign.models.adapter_sums import write_sum
from rayalign.models.model_folder import ModelFolder, same_architecture, shared_tensors
from rayalign.models.output_folder import copy_companions, whole_folder
from rayalign.models.stored_sums import summed_pieces
from rayalign.models.weighted_sums import Mode, merge_lora, merge_tensors, verify_weights
from rayalign.weights.streaming import StoredTensor, write_tensors

__all__ = ["Mode", "merge_adapters", "merge_folders", "merge_into", "merge_lora", "merge_models", "merge_tensors"]


def merge_folders(
    paths: Sequence[str | Path],
    weights: Sequence[float],
    out: str | Path,
    *,
    mode: Mode | None = None,
    rank: int | None = None,
) -> None:
    """Merge model folders, or adapter folders: `merge_models` or `merge_adapters` (delta unless `mode` says otherwise).

    Raises:
        InputError: as those; or models and adapters are mixed, or `mode` or `rank` is set for full models.
    """
    adapters = [path for path in paths if AdapterFolder.stands_at(Path(path))]
    if adapters and len(adapters) < len(paths):
        raise InputError(f"{adapters[0]} is an adapter, but not all inputs are; merge models or adapters, not both")
    if adapters:
        return merge_adapters(paths, weights, out, mode=mode or "delta", rank=rank)
    if mode is not None or rank is not None:
        raise InputError("merge: mode and rank are for adapters, but these folders hold full models; leave them out")
    merge_models(paths, weights, out)


def merge_models(paths: Sequence[str | Path], weights: Sequence[float], out: str | Path) -> None:
    """Write the weighted sum of full models as a model folder, sharded and typed as the first one.

    Configuration, generation configuration and tokenizer are the first model's. The folder carries no probe: the first
    model's would be false, and a new one would need a pass of the merged model. Tensors stream through memory in
    pieces, whatever the size of models and shards.

    Args:
        paths: model folders with safetensors weights.
        weights: one for each model.
        out: a folder that does not exist or is empty; it appears whole or not at all.

    Raises:
        InputError: weights do not fit; architectures, shapes or tokenizers differ; a file is missing or damaged; or
            `out` has content.
    """
    verify_weights(weights, len(paths))
    models = [ModelFolder.read(Path(path)) for path in paths]
    same_architecture(models)
    names = shared_tensors(models)
    with whole_folder(Path(out), [model.path for model in models]) as folder:
        copy_companions(models[0].path, folder)
        models[0].write_index(folder, names, sum(models[0].tensors[name].size for name in names))
        for file_name, stored in models[0].shards.items():
            shard = {name: tensor for name, tensor in stored.items() if name in names}
            sources: list[list[StoredTensor]] = []
            for name in shard:
                sources.append([model.tensors[name] for model in models])
            contents = {name: (tensor.dtype, tensor.shape) for name, tensor in shard.items()}
            write_tensors(folder / file_name, contents, summed_pieces(sources, weights))


def merge_adapters(
    paths: Sequence[str | Path], weights: Sequence[float], out: str | Path, *, mode: Mode, rank: int | None = None
) -> None:
    """Write merged LoRA adapters as an adapter folder in peft's form, in float32 (in float64 where the first one is).

    Args:
        paths: adapter folders of one base model and the same targets.
        weights: one for each adapter.
        out: as for `merge_models`.
        mode: `delta` joins the factors to rank sum_i r_i, which is exact; `factor` averages A and B, which is not.
        rank: of the nearest adapter (singular values) in the place of the exact one; `delta` alone.

    Raises:
        InputError: as `merge_models`; or bases, targets, or for `factor` ranks or scales differ, or the rank cannot be.
    """
    verify_weights(weights, len(paths))
    adapters = [AdapterFolder.read(Path(path)) for path in paths]
    same_targets(adapters)
    with whole_folder(Path(out), [adapter.path for adapter in adapters]) as folder:
        copy_companions(adapters[0].path, folder)
        write_sum(adapters, weights, folder, mode=mode, rank=rank)


def merge_into(
    base: str | Path,
    paths: Sequence[str | Path],
    weights: Sequence[float],
    out: str | Path,
    *,
    mode: Mode = "delta",
    rank: int | None = None,
) -> None:
    """Write base + sum_i w_i delta_i as a model folder, with the merged adapter beside it as `adapter`.

    Raises:
        InputError: as `merge_adapters`; or the adapters move a matrix that the base does not have.
    """
    with whole_folder(Path(out), [Path(base), *map(Path, paths)]) as folder:
        merge_adapters(paths, weights, folder / "adapter", mode=mode, rank=rank)
        write_adapted(ModelFolder.read(Path(base)), AdapterFolder.read(folder / "adapter"), folder)
