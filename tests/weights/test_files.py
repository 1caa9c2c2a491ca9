from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rayalign.errors import InputError, WeightError
from rayalign.weights.files import content_digest, exactly, fingerprint, model_folder, read_folder, shapes

A, B = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.bfloat16)


def _folder(path: Path, config: dict[str, object]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file({"a": A, "b": B}, path / "model.safetensors")
    return path


def _sharded(path: Path) -> Path:
    path.mkdir()
    save_file({"a": A}, path / "model-1.safetensors")
    save_file({"b": B}, path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_one_file_and_shards_are_read_alike(tmp_path: Path) -> None:
    for path in (_folder(tmp_path / "one", {}), _sharded(tmp_path / "many")):
        found = dict(read_folder(path))
        assert torch.equal(found["a"], A) and torch.equal(found["b"], B)
        assert shapes(path) == {"a": (2, 3), "b": (4,)}


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model.safetensors"):
        list(read_folder(tmp_path))


def test_fingerprint_sees_the_architecture_only(tmp_path: Path) -> None:
    first = _folder(tmp_path / "first", {"hidden_size": 4, "dtype": "float32", "eos_token_id": 1})
    same = _folder(tmp_path / "same", {"hidden_size": 4, "dtype": "bfloat16", "eos_token_id": 2})
    other = _folder(tmp_path / "other", {"hidden_size": 4, "rope_theta": 2.0})
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    save_file({"a": A.T.contiguous(), "b": B}, same / "model.safetensors")
    assert fingerprint(first) != fingerprint(same)


def test_fingerprint_of_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model folder"):
        fingerprint(tmp_path)


def test_weights_are_exactly_those_of_the_model() -> None:
    assert [name for name, _ in exactly([("a", A), ("b", B)], {"a", "b"})] == ["a", "b"]
    with pytest.raises(WeightError, match="1 tensors did not come, b"):
        list(exactly([("a", A)], {"a", "b"}))
    with pytest.raises(WeightError, match="tensor c is not part"):
        list(exactly([("c", A)], {"a", "b"}))
    with pytest.raises(WeightError, match="came twice"):
        list(exactly([("a", A), ("a", A)], {"a", "b"}))


def cached_snapshot(cache: Path) -> Path:
    """A model as `hf download` leaves it."""
    model = cache / "models--maker--model"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    (model / "snapshots").mkdir()
    return _folder(model / "snapshots" / revision, {"model_type": "llama"})


def test_a_hub_name_is_resolved_to_its_snapshot(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path)
    assert model_folder("maker/model", tmp_path) == snapshot
    assert model_folder(str(snapshot)) == snapshot


def test_a_hub_name_that_is_not_cached_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hf download maker/other"):
        model_folder("maker/other", tmp_path)


def test_the_digest_of_the_content_follows_the_weights(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("same", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((3,), value)}, tmp_path / name / "model.safetensors")
    one, same, other = (content_digest(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
