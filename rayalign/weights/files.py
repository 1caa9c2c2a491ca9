"""Weights in a model folder (safetensors, one file or sharded), and which folders are of one architecture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import xxhash
from safetensors import safe_open
from torch import Tensor

from rayalign.errors import InputError, WeightError

INDEX = "model.safetensors.index.json"
NOT_ARCHITECTURE = [
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
]


def model_folder(model: str, cache: Path | None = None) -> Path:
    """The folder of a model: itself, or where a hub name's snapshot lies in this machine's cache.

    Args:
        cache: the Hugging Face cache; None: the one that the environment names.

    Raises:
        InputError: neither a folder nor in the cache, and the hub cannot be reached.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns, cache_dir=cache))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {model}: neither a folder nor in the Hugging Face cache ({first_line}); "
            f"give a folder, or where there is a network run `hf download {model}` once"
        ) from error


def read_folder(path: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of the folder, one at a time, in the order of the files; InputError where it has no safetensors."""
    for file in shard_files(path):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a mapping)
                yield name, tensors.get_tensor(name)


def tensor_files(path: Path) -> dict[str, Path]:
    """The file of each tensor of the folder; InputError where it has no safetensors."""
    files: dict[str, Path] = {}
    for file in shard_files(path):
        with safe_open(file, framework="pt") as tensors:
            files.update(dict.fromkeys(tensors.keys(), file))
    return files


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of a safetensors file."""
    with safe_open(file, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    return tensor


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of the folder, by its headers alone; InputError where it has no safetensors."""
    by_name: dict[str, tuple[int, ...]] = {}
    for file in shard_files(path):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                by_name[name] = tuple(tensors.get_slice(name).get_shape())
    return by_name


def fingerprint(path: Path) -> str:
    """Equal for folders whose weights a running engine can exchange: same architecture, same names and shapes.

    Raises:
        InputError: the folder has no config.json or no safetensors.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a model folder ({error}); name one made by save_pretrained") from error
    architecture = {k: v for k, v in config.items() if k not in NOT_ARCHITECTURE}
    text = json.dumps([architecture, sorted(shapes(path).items())], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def content_digest(path: Path) -> str:
    """Of the bytes of all weights of the folder; InputError where it has no safetensors."""
    digest = hashlib.blake2b(digest_size=16)
    for file in shard_files(path):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, xxhash.xxh3_128).digest())
    return digest.hexdigest()


def exactly(named: Iterable[tuple[str, Tensor]], names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors as they come, checked to be those of `names`.

    Raises:
        WeightError: at an unknown name, or after the last tensor if one is missing.
    """
    missing = set(names)
    for name, tensor in named:
        if name not in missing:
            raise WeightError(f"tensor {name} is not part of the loaded model, or came twice; send one model's own")
        missing.remove(name)
        yield name, tensor
    if missing:
        raise WeightError(f"{len(missing)} tensors did not come, {min(missing)} among them; send all of the weights")


def shard_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        InputError: it has none, its index cannot be read, or a file that the index names is missing.
    """
    index = path / INDEX
    if not index.exists():
        files = [path / "model.safetensors"]
        if not files[0].exists():
            raise InputError(f"{path} has no model.safetensors; save the model with safetensors (save_pretrained does)")
        return files
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [path / name for name in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of weights ({error!r}); copy the whole model folder again") from error
    missing_files = [file.name for file in files if not file.exists()]
    if missing_files:
        raise InputError(f"{path} lacks {', '.join(missing_files)}, which its index names; copy the whole folder again")
    return files
