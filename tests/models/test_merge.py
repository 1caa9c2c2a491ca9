"""Full models: a merged folder against sums computed from the loaded models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rayalign.errors import InputError
from rayalign.models.merge import merge_folders, merge_models

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Make:
    """Writes a model; its name is its seed."""

    def write(seed: int, *, dtype: torch.dtype = torch.float32, shard: str = "5GB", **config: object) -> Path:
        torch.manual_seed(seed)
        folder = tmp_path / f"model-{seed}"
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": False, **config})).to(dtype)
        model.save_pretrained(folder, max_shard_size=shard)
        tokenizer.save_pretrained(folder)
        (folder / "probe.json").write_text("{}")
        return folder

    return write


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())


def test_the_merged_model_is_the_weighted_sum(make: Make, tmp_path: Path) -> None:
    paths, weights = [make(seed) for seed in (1, 2, 3)], [0.75, 1.5, -1.25]
    merge_models(paths, weights, tmp_path / "out")
    merged, inputs = parameters(tmp_path / "out"), [parameters(path) for path in paths]
    for name, tensor in merged.items():
        expected = sum(weight * model[name].double() for weight, model in zip(weights, inputs, strict=True))
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-7)
    AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == (
        paths[0] / "generation_config.json"
    ).read_bytes()
    assert not (tmp_path / "out" / "probe.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-1", "model-2", "model-3", "out"]


def test_one_model_with_weight_one_is_that_model(make: Make, tmp_path: Path) -> None:
    merge_models([make(1)], [1.0], tmp_path / "out")
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "out", tmp_path / "model-1"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_shards_and_type_are_those_of_the_first(make: Make, tmp_path: Path) -> None:
    first, second = make(1, dtype=torch.bfloat16, shard="4KB"), make(2)
    merge_models([first, second], [0.5, 0.5], tmp_path / "out")
    index = "model.safetensors.index.json"
    maps = [json.loads((path / index).read_text())["weight_map"] for path in (first, tmp_path / "out")]
    assert maps[0] == maps[1] and len(set(maps[0].values())) > 2
    inputs = [AutoModelForCausalLM.from_pretrained(path).float().state_dict() for path in (first, second)]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.dtype == torch.bfloat16
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, ((inputs[0][name] + inputs[1][name]) / 2).to(torch.bfloat16))


def test_a_second_copy_of_tied_embeddings_is_left_out(make: Make, tmp_path: Path) -> None:
    first, second = make(1, tie_word_embeddings=True), make(2, tie_word_embeddings=True)
    stored = load_file(first / "model.safetensors")
    assert "lm_head.weight" not in stored
    copied = stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}
    save_file(copied, first / "model.safetensors", {"format": "pt"})
    merge_models([first, second], [0.5, 0.5], tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    mean = (copied["model.embed_tokens.weight"] + parameters(second)["model.embed_tokens.weight"]) / 2
    torch.testing.assert_close(merged.lm_head.weight.data, mean, rtol=0, atol=1e-7)
    copied["lm_head.weight"][0, 0] += 1.0
    save_file(copied, first / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"model-2 has no tensor lm_head\.weight"):
        merge_models([first, second], [0.5, 0.5], tmp_path / "other")


def test_memory_does_not_grow_with_the_models(make: Make, tmp_path: Path) -> None:
    """Four models of 64 MB in one shard each; the peak is some pieces of 1 MB in each thread, less than one shard."""
    wide = {"vocab_size": 262144, "hidden_size": 64, "tie_word_embeddings": True}
    paths = [make(seed, **wide) for seed in range(2)] * 2
    size = (paths[0] / "model.safetensors").stat().st_size
    assert size > 64 << 20
    merge_models(paths, [0.25] * 4, tmp_path / "warm")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak of this process to what it holds now
    before = peak_memory()
    merge_models(paths, [0.25] * 4, tmp_path / "out")
    assert peak_memory() - before < size


def peak_memory() -> int:
    """The highest resident memory of this process so far [bytes]."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]


def test_other_architectures_are_refused(make: Make, tmp_path: Path) -> None:
    first = make(1)
    for changes, message in (
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1, that of .* is 2"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    ):
        other = make(2, **changes)
        with pytest.raises(InputError, match=message):
            merge_models([first, other], [0.5, 0.5], tmp_path / "out")


def test_other_shapes_are_refused(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    tensors = load_file(paths[1] / "model.safetensors")
    tensors["lm_head.weight"] = torch.ones(41, 16)
    save_file(tensors, paths[1] / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight is \(41, 16\) in .*model-2, but \(40, 16\) in"):
        merge_models(paths, [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_tokenizers_are_refused(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    text = (paths[1] / "tokenizer.json").read_text()
    (paths[1] / "tokenizer.json").write_text(text.replace('"w7"', '"v7"'))
    with pytest.raises(InputError, match="different tokenizers"):
        merge_models(paths, [0.5, 0.5], tmp_path / "out")


def test_a_tokenizer_without_a_model_is_refused(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    for text in ('{"version": "1.0"}', "[]", "no json"):
        (paths[1] / "tokenizer.json").write_text(text)
        with pytest.raises(InputError, match="tokenizer.json is no fast tokenizer"):
            merge_models(paths, [0.5, 0.5], tmp_path / "out")


def test_the_working_folder_may_be_the_output(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    merge_models([make(1)], [1.0], ".")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_bad_input_is_refused_before_anything_is_written(make: Make, tmp_path: Path) -> None:
    model = make(1)
    cases: list[tuple[list[Path], list[float], Path, str]] = [
        ([model], [0.5, 0.5], tmp_path / "out", "2 weights do not fit 1 inputs"),
        ([], [], tmp_path / "out", "nothing to merge"),
        ([model], [float("nan")], tmp_path / "out", "not a finite number"),
        ([model, tmp_path / "none"], [0.5, 0.5], tmp_path / "out", "none is not a folder"),
        ([model], [1.0], model, "is one of the inputs"),
        ([model], [1.0], tmp_path, "exists and has content"),
        ([model], [1.0], model / "config.json" / "out", "out cannot be written .* write to another folder"),
    ]
    before = sorted(tmp_path.iterdir())
    for paths, weights, out, message in cases:
        with pytest.raises(InputError, match=message):
            merge_models(paths, weights, out)
    with pytest.raises(InputError, match="for adapters"):
        merge_folders([model], [1.0], tmp_path / "out", rank=2)
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_folders_are_refused(make: Make, tmp_path: Path) -> None:
    model = make(1, shard="4KB")
    shard = max(model.glob("*.safetensors"))
    shard.rename(tmp_path / "aside")
    with pytest.raises(InputError, match=f"lacks {re.escape(shard.name)}, which its index names"):
        merge_models([model], [1.0], tmp_path / "out")
    (model / "config.json").unlink()
    with pytest.raises(InputError, match="not a model folder"):
        merge_models([model], [1.0], tmp_path / "out")


def test_a_failure_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    paths = [make(1), make(2)]
    tensors = load_file(paths[1] / "model.safetensors")
    positions = {"model.positions": torch.arange(4)}
    save_file(tensors | positions, paths[0] / "model.safetensors", {"format": "pt"})
    save_file(tensors | {"model.positions": torch.ones(4).long()}, paths[1] / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="have no average"):
        merge_models(paths, [0.5, 0.5], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == paths
