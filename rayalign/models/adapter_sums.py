"""Weighted sums of LoRA adapters, written as one adapter; one module at a time is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayalign.errors import InputError
from rayalign.models.adapter_folder import CONFIG, PREFIX, WEIGHTS, AdapterFolder, Factors
from rayalign.models.stored_sums import summed_pieces
from rayalign.models.weighted_sums import Mode
from rayalign.weights.streaming import StoredTensor, write_tensors

_SUM_TOLERANCE = 1e-6


def write_sum(
    adapters: Sequence[AdapterFolder], weights: Sequence[float], folder: Path, *, mode: Mode, rank: int | None
) -> None:
    """Write configuration and weights of the merged adapter; see `merge_adapters`.

    In `delta` mode weights and scales are multiplied into B, and alpha is the rank, so that the product counts once.
    """
    if mode not in ("delta", "factor"):
        raise InputError(f"mode {mode!r} is unknown; use delta or factor")
    _verify_whole(adapters, weights)
    first = adapters[0]
    if mode == "factor":
        _verify_equal_ranks(adapters, rank)
        ranks = {module: factors.rank for module, factors in first.modules.items()}
        config = dict(first.config)
    else:
        ranks = {module: _joined_rank(adapters, module, rank) for module in first.modules}
        config = _config(first.config, ranks)
    dtype = _dtype(first)
    contents: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for module, factors in first.modules.items():
        outputs, inputs = factors.width
        contents[factors.a_name] = (dtype, (ranks[module], inputs))
        contents[factors.b_name] = (dtype, (outputs, ranks[module]))
    contents.update({name: (tensor.dtype, tensor.shape) for name, tensor in first.whole.items()})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / WEIGHTS, contents, _tensors(adapters, weights, dtype, mode, rank))


def _tensors(
    adapters: Sequence[AdapterFolder], weights: Sequence[float], dtype: torch.dtype, mode: Mode, rank: int | None
) -> Iterator[Tensor]:
    by_module: list[list[Factors]] = []
    for module in adapters[0].modules:
        by_module.append([adapter.modules[module] for adapter in adapters])
    if mode == "factor":
        yield from summed_pieces(_factors_in_turn(by_module), weights, dtype)
    else:
        for factors in by_module:
            yield from _joined(factors, weights, dtype, rank)
    whole: list[list[StoredTensor]] = []
    for name in adapters[0].whole:
        whole.append([adapter.whole[name] for adapter in adapters])
    yield from summed_pieces(whole, weights)


def _factors_in_turn(by_module: Sequence[Sequence[Factors]]) -> Iterator[list[StoredTensor]]:
    """The A of all adapters, then the B, of one module after the other."""
    for factors in by_module:
        yield [f.a for f in factors]
        yield [f.b for f in factors]


def _joined(
    factors: Sequence[Factors], weights: Sequence[float], dtype: torch.dtype, rank: int | None
) -> Iterator[Tensor]:
    """A and B of the exact sum, or of the nearest one of that rank."""
    if rank is None:
        yield from (f.a.read().to(dtype) for f in factors)
        yield _scaled_outputs(factors, weights, dtype)
    else:
        a = torch.cat([f.a.read().to(dtype) for f in factors])
        yield from nearest_factors(a, _scaled_outputs(factors, weights, dtype), rank)


def _scaled_outputs(factors: Sequence[Factors], weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    """The B of all adapters side by side, each times its weight and scale."""
    scaled = []
    for pair, weight in zip(factors, weights, strict=True):
        scaled.append(pair.b.read().to(dtype) * (weight * pair.scale))
    return torch.cat(scaled, dim=1)


def nearest_factors(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors A [rank, inputs] and B [outputs, rank] whose product is nearest to b @ a (Eckart and Young 1936).

    The product is never built: singular values come from the triangles of two QR decompositions, in float64.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    roots = s[:rank].sqrt()
    near_a = roots[:, None] * (v[: len(roots)] @ q_a.T)
    near_b = (q_b @ u[:, : len(roots)]) * roots
    missing = rank - len(roots)
    near_a = torch.nn.functional.pad(near_a, (0, 0, 0, missing))
    near_b = torch.nn.functional.pad(near_b, (0, missing))
    return near_a.to(a.dtype), near_b.to(b.dtype)


def _joined_rank(adapters: Sequence[AdapterFolder], module: str, rank: int | None) -> int:
    """The rank of the sum, or the one to reduce it to."""
    total = sum(adapter.modules[module].rank for adapter in adapters)
    if rank is None:
        return total
    if not 1 <= rank <= total:
        raise InputError(
            f"rank {rank} cannot be: {module} has rank {total} over all adapters; use 1 to {total}, or none"
        )
    return rank


def _config(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """The first adapter's configuration for factors of these ranks whose product counts once."""
    usual = max(ranks.values())
    unusual = {module.removeprefix(PREFIX): rank for module, rank in ranks.items() if rank != usual}
    return {
        **config,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": unusual,
        "use_rslora": False,
    }


def _verify_equal_ranks(adapters: Sequence[AdapterFolder], rank: int | None) -> None:
    """Averaging factors needs equal ranks and scales."""
    if rank is not None:
        raise InputError("merge: rank is for mode delta; averaged factors keep the rank that they have")
    first = adapters[0]
    for adapter in adapters[1:]:
        for module, ours in first.modules.items():
            theirs = adapter.modules[module]
            if (ours.rank, ours.scale) != (theirs.rank, theirs.scale):
                raise InputError(
                    f"{module}: rank {theirs.rank} and scale {theirs.scale:g} in {adapter.path}, but {ours.rank} and "
                    f"{ours.scale:g} in {first.path}; averaged factors need equal ones, mode delta does not"
                )


def _verify_whole(adapters: Sequence[AdapterFolder], weights: Sequence[float]) -> None:
    """Modules trained whole hold the base's numbers too, so only weights that sum to 1 leave those as they are."""
    if adapters[0].whole and abs(sum(weights) - 1.0) > _SUM_TOLERANCE:
        name = next(iter(adapters[0].whole))
        raise InputError(
            f"{adapters[0].path}: {name} is trained whole, and weights that sum to {sum(weights):g} would scale its "
            "base; use weights that sum to 1"
        )


def _dtype(adapter: AdapterFolder) -> torch.dtype:
    dtypes = {factors.a.dtype for factors in adapter.modules.values()}
    return torch.float64 if torch.float64 in dtypes else torch.float32
