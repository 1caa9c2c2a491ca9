"""LoRA adapters in peft's form: base weights plus the merged product, against sums computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayalign.errors import InputError
from rayalign.models.adapter_sums import nearest_factors
from rayalign.models.merge import merge_adapters, merge_folders, merge_lora

Q = "base_model.model.model.layers.0.self_attn.q_proj"
E = "base_model.model.model.embed_tokens"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an adapter of one projection [outputs 5, inputs 4]; its name is its seed."""

    def write(
        seed: int, *, rank: int = 2, dtype: torch.dtype = torch.float64, inputs: int = 4, **changes: object
    ) -> Path:
        folder = tmp_path / f"adapter-{seed}"
        folder.mkdir()
        draw = torch.Generator().manual_seed(seed)
        tensors = {
            f"{Q}.lora_A.weight": torch.randn(rank, inputs, generator=draw).to(dtype),
            f"{Q}.lora_B.weight": torch.randn(5, rank, generator=draw).to(dtype),
        }
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": "base",
            "target_modules": ["q_proj"],
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": 8,
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
        return folder

    return write


def read(folder: Path) -> tuple[dict[str, object], Tensor, Tensor]:
    """Configuration, A and B of an adapter."""
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, tensors[f"{Q}.lora_A.weight"], tensors[f"{Q}.lora_B.weight"]


def delta(folder: Path) -> Tensor:
    """What peft adds to the projection: alpha / r B A."""
    config, a, b = read(folder)
    assert config["r"] == a.shape[0] == b.shape[1]
    return config["lora_alpha"] / config["r"] * b.double() @ a.double()  # type: ignore[operator]


def test_delta_keeps_the_exact_sum_as_an_adapter(make: Make, tmp_path: Path) -> None:
    paths, weights = [make(1), make(2, rank=3, lora_alpha=16), make(3, rank=1)], [0.5, 1.5, -2.0]
    merge_adapters(paths, weights, tmp_path / "out", mode="delta")
    expected = sum(weight * delta(path) for weight, path in zip(weights, paths, strict=True))
    torch.testing.assert_close(delta(tmp_path / "out"), expected, rtol=0, atol=1e-12)
    config, a, _ = read(tmp_path / "out")
    assert config["r"] == config["lora_alpha"] == 6 and config["target_modules"] == ["q_proj"]
    assert torch.equal(a, torch.cat([read(path)[1] for path in paths]))


def test_delta_in_half_precision_is_kept_in_single(make: Make, tmp_path: Path) -> None:
    paths = [make(seed, dtype=torch.bfloat16) for seed in (1, 2)]
    merge_adapters(paths, [0.3, 0.7], tmp_path / "out", mode="delta")
    assert read(tmp_path / "out")[1].dtype == torch.float32
    expected = 0.3 * delta(paths[0]) + 0.7 * delta(paths[1])
    torch.testing.assert_close(delta(tmp_path / "out"), expected, rtol=0, atol=1e-5)


def test_a_smaller_rank_is_the_nearest_matrix(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    full = delta(paths[0]) - delta(paths[1])
    for rank in (1, 3):
        merge_adapters(paths, [1.0, -1.0], tmp_path / f"{rank}", mode="delta", rank=rank)
        u, s, v = torch.linalg.svd(full)
        torch.testing.assert_close(delta(tmp_path / f"{rank}"), u[:, :rank] * s[:rank] @ v[:rank], rtol=0, atol=1e-12)


def test_nearest_factors_are_padded_where_the_matrix_is_too_small() -> None:
    a, b = torch.randn(6, 2), torch.randn(3, 6)
    near_a, near_b = nearest_factors(a, b, 5)
    assert near_a.shape == (5, 2) and near_b.shape == (3, 5)
    torch.testing.assert_close(near_b @ near_a, b @ a)


def test_factor_averages_a_and_b(make: Make, tmp_path: Path) -> None:
    paths, weights = [make(1), make(2)], [0.25, 0.75]
    merge_folders(paths, weights, tmp_path / "out", mode="factor")
    factors = [read(path)[1:] for path in paths]
    expected = merge_lora(factors, weights, alpha=8.0, mode="factor")
    torch.testing.assert_close(delta(tmp_path / "out"), expected, rtol=0, atol=1e-12)
    assert read(tmp_path / "out")[0] == read(paths[0])[0]
    exact = 0.25 * delta(paths[0]) + 0.75 * delta(paths[1])
    assert (delta(tmp_path / "out") - exact).abs().max() > 0.1


def test_scales_of_single_modules_and_of_rslora_count(make: Make, tmp_path: Path) -> None:
    """alpha / sqrt(rank) = 8 / 2, and alpha 2 of 4 for this module."""
    paths = [make(1, rank=4, use_rslora=True), make(2, rank=4, alpha_pattern={"q_proj": 2})]
    merge_adapters(paths, [1.0, 1.0], tmp_path / "out", mode="delta")
    (_, a_1, b_1), (_, a_2, b_2) = map(read, paths)
    torch.testing.assert_close(delta(tmp_path / "out"), 4.0 * b_1 @ a_1 + 0.5 * b_2 @ a_2, rtol=0, atol=1e-12)
    assert read(tmp_path / "out")[0]["use_rslora"] is False


def add(folder: Path, tensors: dict[str, Tensor]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | tensors, file)


def test_modules_of_unlike_ranks_are_named_in_the_patterns(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    for path in paths:
        add(path, {f"{E}.lora_embedding_A": torch.ones(1, 9), f"{E}.lora_embedding_B": torch.ones(4, 1)})
    merge_adapters(paths, [1.0, 1.0], tmp_path / "out", mode="delta")
    config, a, _ = read(tmp_path / "out")
    assert config["r"] == len(a) == 4
    assert config["rank_pattern"] == config["alpha_pattern"] == {"model.embed_tokens": 2}
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    product = tensors[f"{E}.lora_embedding_B"] @ tensors[f"{E}.lora_embedding_A"]
    assert torch.equal(product, torch.full((4, 9), 16.0, dtype=torch.float64))


def test_modules_trained_whole_need_weights_of_one(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    for path, value in zip(paths, (1.0, 3.0), strict=True):
        add(path, {"base_model.model.score.weight": torch.full((1, 4), value)})
    merge_adapters(paths, [0.75, 0.25], tmp_path / "out", mode="delta")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert tensors["base_model.model.score.weight"].tolist() == [[1.5] * 4]
    with pytest.raises(InputError, match=r"score\.weight is trained whole.* use weights that sum to 1"):
        merge_adapters(paths, [1.0, 1.0], tmp_path / "other", mode="delta")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": "stranger"}, "base_model_name_or_path is 'stranger'"),
        ({"target_modules": ["q_proj", "v_proj"]}, "target_modules is"),
        ({"inputs": 3}, r"q_proj is \(5, 3\) in .*adapter-2, but \(5, 4\)"),
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "type IA3; only LoRA"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    make: Make, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        merge_adapters([make(1), make(2, **changes)], [0.5, 0.5], tmp_path / "out", mode="delta")
    assert not (tmp_path / "out").exists()


def test_ranks_and_modes_that_do_not_fit_are_refused(make: Make, tmp_path: Path) -> None:
    paths, out = [make(1), make(2, rank=3), make(3, lora_alpha=4)], tmp_path / "out"
    for others, mode, rank, message in (
        (paths[:2], "factor", None, "rank 3 and scale 2.66667 in .* mode delta does not"),
        (paths[::2], "factor", None, "rank 2 and scale 2 in .* but 2 and 4"),
        (paths[::2], "factor", 1, "rank is for mode delta"),
        (paths[::2], "delta", 5, "rank 5 cannot be"),
        (paths[::2], "delta", 0, "rank 0 cannot be"),
        (paths[::2], "cat", None, "use delta or factor"),
    ):
        with pytest.raises(InputError, match=message):
            merge_adapters(others, [0.5, 0.5], out, mode=mode, rank=rank)  # type: ignore[arg-type]


def test_an_adapter_without_its_scale_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="adapter_config.json has no number lora_alpha; save the adapter again"):
        merge_adapters([make(1, lora_alpha=None)], [1.0], tmp_path / "out", mode="delta")


def test_other_files_are_refused(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    add(paths[0], {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 4)})
    with pytest.raises(InputError, match="only one of its two factors"):
        merge_adapters(paths, [0.5, 0.5], tmp_path / "out", mode="delta")
    with pytest.raises(InputError, match="merge models or adapters, not both"):
        merge_folders([paths[1], tmp_path], [0.5, 0.5], tmp_path / "out")
    (paths[1] / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        merge_adapters(paths[1:], [1.0], tmp_path / "out", mode="delta")
