"""What a served policy is made of, proven before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayalign.config import Registry, RolloutConfig, ServedPolicyConfig, load_registry, nearest
from rayalign.data.chat import load_tokenizer, stop_ids
from rayalign.errors import InputError
from rayalign.models.adapted_model import fits_base
from rayalign.models.adapter_folder import CONFIG, WEIGHTS, AdapterFolder, same_targets
from rayalign.models.catalogue import shape_of
from rayalign.models.model_folder import ModelFolder
from rayalign.rollout import vllm_runs_on
from rayalign.rollout.chat import AdapterRoom
from rayalign.rollout.vllm_transfer import RANKS
from rayalign.serving.profiles import BASE
from rayalign.weights.files import content_digest, model_folder
from rayalign.weights.headers import prove_folder

LONGEST = 4096
"""context of a model with a longer one, unless the settings say otherwise [tokens]"""
_LANGUAGE_MODELS = ("ForCausalLM", "ForConditionalGeneration")
_WHOLE_CONTEXTS = 16
_LEAST_KV = 128 << 20
_USUAL_KV = 1 << 30
"""of a model whose shape is not known [bytes]"""
_SEQUENCES = 128
"""written at the same time"""


@dataclass(frozen=True)
class PolicyInputs:
    """A base and its adapters, which fit each other."""

    base: str
    """folder"""
    base_digest: str
    registry: Registry
    adapters: Mapping[str, str]
    """id of a preference -> absolute folder"""
    digests: Mapping[str, str]
    """id of a preference -> digest of its adapter's content"""
    room: AdapterRoom | None
    """None: there are no adapters"""
    stop_ids: tuple[int, ...]
    engine: RolloutConfig


def read_inputs(config: ServedPolicyConfig) -> PolicyInputs:
    """Read and check everything that can be known before the engine starts.

    Raises:
        InputError: the base is no language model with a chat template, or lacks shards; an adapter is of another base,
            has other targets than the first or is unusable; a preference is not in the registry; ranks or context are
            too large.
    """
    _verify_engine(config.gpus, vllm_runs_on())
    registry = load_registry(config.preferences)
    _known(registry, config.adapters)
    folder = model_folder(config.model).resolve()
    if AdapterFolder.stands_at(folder):
        raise InputError(f"{config.model} is an adapter; name its base, and the adapter as --adapter PREFERENCE=FOLDER")
    prove_folder(folder)
    base = ModelFolder.read(folder)
    _verify_language_model(base)
    tokenizer = load_tokenizer(str(folder), dialogue=False)
    if tokenizer.chat_template is None:
        raise InputError(f"{config.model} has no chat template; put a chat_template.jinja beside the model")
    digest = content_digest(folder)
    adapters = {name: AdapterFolder.read(Path(path).resolve()) for name, path in config.adapters.items()}
    for adapter in adapters.values():
        _of_base(base, digest, adapter)
    if adapters:
        same_targets(list(adapters.values()))
    return PolicyInputs(
        base=str(folder),
        base_digest=digest,
        registry=registry,
        adapters={name: str(adapter.path) for name, adapter in adapters.items()},
        digests={name: _content(adapter.path) for name, adapter in adapters.items()},
        room=adapter_room(registry, adapters, config) if adapters else None,
        stop_ids=stop_ids(tokenizer),
        engine=_engine(config, base),
    )


def _verify_engine(gpus: int, build: Literal["cpu", "gpu"] | None) -> None:
    """InputError unless the installed vLLM runs on what the settings give it."""
    if build is None:
        raise InputError("serve-policy writes with vLLM, which is not installed; `rayalign doctor` names the package")
    if build == "gpu" and not gpus:
        raise InputError("the installed vLLM needs a GPU; give --gpus 1 or more")
    if build == "cpu" and gpus:
        raise InputError(f"the installed vLLM is for CPUs and cannot use --gpus {gpus}; leave it out, or install vllm")


def _verify_language_model(base: ModelFolder) -> None:
    architectures: list[str] = base.config.get("architectures") or []
    if architectures and not any(name.endswith(_LANGUAGE_MODELS) for name in architectures):
        raise InputError(f"{base.path} is a {architectures[0]}, which writes no answers; name a language model")


def _known(registry: Registry, names: Mapping[str, str]) -> None:
    for name in names:
        if name == BASE:
            raise InputError(f"--adapter {name}: requests name the base so; name the preference")
        if name not in registry:
            raise InputError(
                f"--adapter {name}: there is no preference of that name; {nearest(name, list(registry))} "
                "A file of your own (--preferences) adds further ones"
            )


def _of_base(base: ModelFolder, digest: str, adapter: AdapterFolder) -> None:
    """InputError where an adapter does not fit the base, or names another one that is there to be compared."""
    fits_base(base, adapter)
    recorded = adapter.config.get("base_model_name_or_path")
    if not recorded or not Path(recorded).is_dir():
        return
    trained_on = Path(recorded).resolve()
    if trained_on != base.path and content_digest(trained_on) != digest:
        raise InputError(
            f"{adapter.path} was trained on {recorded}, whose weights are not those of {base.path}; serve adapters "
            "of one base"
        )


def adapter_room(registry: Registry, adapters: Mapping[str, AdapterFolder], config: ServedPolicyConfig) -> AdapterRoom:
    """What the engine must hold: a profile takes one preference of each dimension, and ranks add up in a merge.

    Raises:
        InputError: vLLM takes no adapter of such a rank.
    """
    highest: dict[str, int] = {}
    targets: set[str] = set()
    for name, adapter in adapters.items():
        dimension = registry[name].dimension
        rank = max(factors.rank for factors in adapter.modules.values())
        highest[dimension] = max(rank, highest.get(dimension, 0))
        targets |= {module.rpartition(".")[2] for module in adapter.modules}
    rank = sum(highest.values())
    if rank > RANKS[-1]:
        raise InputError(
            f"the ranks of a profile's adapters add up to {rank}, and vLLM takes at most {RANKS[-1]}; reduce them with "
            "`rayalign merge ADAPTER --weights 1 --rank N`"
        )
    at_once = min(config.profiles_at_once, config.merged)
    return AdapterRoom(rank=rank, targets=tuple(sorted(targets)), at_once=at_once, in_memory=config.merged)


def _content(adapter: Path) -> str:
    """Of the files that decide what an adapter computes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in (CONFIG, WEIGHTS):
        with (adapter / name).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _engine(config: ServedPolicyConfig, base: ModelFolder) -> RolloutConfig:
    dtype = config.dtype or ("bfloat16" if config.gpus else "float32")
    context = _context(config, base)
    return RolloutConfig(
        context=context,
        max_sequences=_SEQUENCES,
        dtype=dtype,
        cache_bytes=config.kv_bytes or _kv_bytes(base.path, context, 2 if dtype == "bfloat16" else 4),
        tensor_parallel=max(1, config.gpus),
        gpus=config.gpus,
        threads=config.threads,
    )


def _context(config: ServedPolicyConfig, base: ModelFolder) -> int:
    settings = base.config.get("text_config", base.config)
    own: int | None = settings.get("max_position_embeddings")
    if config.context is None:
        return min(own or LONGEST, LONGEST)
    if own is not None and config.context > own:
        raise InputError(f"--context {config.context} is more than the {own} positions of {config.model}; give less")
    return config.context


def _kv_bytes(folder: Path, context: int, number_bytes: int) -> int:
    """Room for whole contexts in the cache of keys and values."""
    shape = shape_of(str(folder))
    if shape is None:
        return _USUAL_KV
    head = shape.head_size or shape.hidden // shape.heads
    token = 2 * shape.layers * shape.kv_heads * head * number_bytes
    return max(_LEAST_KV, _WHOLE_CONTEXTS * context * token)
