"""The models of a job at full size, built without their weights: names, shapes, adapters, engines, positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rayalign.config import Job, Reference
from rayalign.errors import InputError
from rayalign.models.blueprint import HEADS, Blueprint, blueprint
from rayalign.models.configuration import positions, read_config
from rayalign.models.miniature import is_scalar
from rayalign.models.model_folder import ModelFolder, is_second_copy
from rayalign.pipeline.kind import LANGUAGE_MODEL, StageKind, kinds_of
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.stand_ins import ReadModel
from rayalign.weights.files import shapes, shard_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from rayalign.pipeline.train import TrainKind

_HEAD = "lm_head.weight"
_DIVIDED = {"num_attention_heads": "attention heads", "intermediate_size": "hidden units of the MLP"}
"""sizes of which each device of an engine has a part"""


class FullModels:
    """What the stages of a job read, by the model that each of them started from."""

    def __init__(self, job: Job, models: Mapping[str, ReadModel]) -> None:
        self._job = job
        self._models = models
        self._kinds = kinds_of(job)
        self.blueprints: dict[str, Blueprint] = {}
        """of each model from elsewhere that could be built"""
        self._configs: dict[str, PretrainedConfig] = {}

    def check(self) -> Iterator[Finding]:
        """Every finding about the models."""
        for model in self._models.values():
            yield from self._build(model)
        for name, kind in self._kinds.items():
            yield from self._stage(name, kind)
            yield from self._sums(name, kind)
        yield from self._engines()

    def origin(self, text: str) -> str:
        """The model from elsewhere, or the preset, that a model of the job started from."""
        reference = Reference.parse(text)
        if reference is None:
            return text
        source = self._kinds[reference.stage].source(reference.role)
        if source is None:  # it has its own: a pretraining
            return next(read.value for read in self._kinds[reference.stage].reads() if read.is_model)
        return self.origin(source)

    def config(self, text: str) -> PretrainedConfig | None:
        """The configuration of a model of the job; None for presets, and for one that could not be built."""
        return self._configs.get(self.origin(text))

    def _build(self, model: ReadModel) -> Iterator[Finding]:
        """The model without its weights; where these are at hand, against the names and shapes in their files."""
        try:
            config = read_config(model.folder)
            plan = blueprint(config, scalar=is_scalar(config))
        except InputError as error:
            yield Finding(model.name, str(error))
            return
        self._configs[model.folder], self.blueprints[model.folder] = config, plan
        folder = Path(model.folder)
        if not model.substituted and folder.is_dir():
            yield from _compare(model, plan, folder)

    def _stage(self, name: str, kind: StageKind) -> Iterator[Finding]:
        yield from self._heads(name, kind)
        training = kind.training
        if kind.sampling is not None or training is not None:
            yield from self._positions(name, kind)
        if training is not None:
            yield from self._adapters(name, training)
            yield from self._vocabularies(name, training)
            yield from self._copied_head(name, training)

    def _heads(self, name: str, kind: StageKind) -> Iterator[Finding]:
        """A reward has one output that was trained, a policy a language model's head."""
        for read in kind.reads():
            elsewhere = read.is_model and Reference.parse(read.value) is None
            config = self.config(read.value) if elsewhere else None
            if config is None:
                continue
            key, scalar = f"stages.{name}.{read.key}", is_scalar(config)
            if scalar and config.num_labels != 1:
                yield Finding(key, f"the head of {read.value} has {config.num_labels} outputs; a reward has one")
            elif scalar and read.accepts == (LANGUAGE_MODEL,):
                yield Finding(key, f"{read.value} is a reward model and writes nothing; name a language model")
            elif not scalar and LANGUAGE_MODEL not in read.accepts and not self._models[read.value].substituted:
                yield Finding(key, f"{read.value} is a language model, whose scores are random; train a reward of it")

    def _positions(self, name: str, kind: StageKind) -> Iterator[Finding]:
        """A model has a position for each token of the longest sequence."""
        context = self._job.rollout.context
        for read in kind.reads():
            config = self.config(read.value) if read.is_model else None
            limit = positions(config) if config is not None else None
            if limit is not None and limit < context:
                yield Finding(
                    f"stages.{name}.{read.key}",
                    f"{read.value} has positions for {limit} tokens, but rollout.context is {context}; lower it",
                )

    def _adapters(self, name: str, kind: TrainKind) -> Iterator[Finding]:
        """Each target of an adapter names linear layers of the model, and none of its heads."""
        for role in kind.trained:
            config = kind.learner(role).lora
            model = kind.models()[role]
            plan = self.blueprints.get(self.origin(model)) if model else None
            if config is None or plan is None:
                continue
            key = f"stages.{name}.{'critic_learner' if role == 'critic' else 'learner'}.lora.targets"
            for target in config.targets:
                if target in HEADS:
                    yield Finding(key, f"{target} is the head of {model}, which gets no adapter; leave it out")
                elif target not in plan.linear:
                    linear = ", ".join(sorted(plan.linear - HEADS))
                    yield Finding(key, f"no linear layer of {model} is named {target}; it has {linear}")

    def _vocabularies(self, name: str, kind: TrainKind) -> Iterator[Finding]:
        """Who reads the policy's token ids has as many embeddings: a hint where tokenizers are out of reach."""
        policy = self.config(kind.stage.model)
        for role, model in kind.policy_readers().items():
            reader = self.config(model)
            if policy is None or reader is None:
                continue
            sizes = [config.get_text_config().vocab_size for config in (reader, policy)]
            if sizes[0] < sizes[1]:
                yield Finding(
                    f"stages.{name}.{role}",
                    f"{model} has embeddings for {sizes[0]} tokens, the policy for {sizes[1]}, "
                    "whose token ids it reads; name a model of the policy's family",
                )

    def _copied_head(self, name: str, kind: TrainKind) -> Iterator[Finding]:
        """A learner sends tied embeddings once; vLLM waits for the second copy too that the model's files have."""
        model = self._models.get(kind.stage.model)
        to_vllm = kind.stage.online and self._job.rollout.engine != "local"
        if model is None or model.substituted or not to_vllm:
            return
        plan, folder = self.blueprints.get(model.folder), Path(model.folder)
        if plan is not None and _has_weights(folder) and _second_head(plan, folder) == "copy":
            text = f"its files hold the tied embeddings again as {_HEAD}, which vLLM would wait for at each transfer"
            yield Finding(f"stages.{name}.model", f"{text}; load {model.name} and save it again by save_pretrained")

    def _sums(self, name: str, kind: StageKind) -> Iterator[Finding]:
        """Models that are added up have the same parameters."""
        first: tuple[str, Blueprint] | None = None
        for read in kind.alike():
            plan = self.blueprints.get(self.origin(read.value))
            if plan is None:
                continue
            if first is not None and plan.shapes != first[1].shapes:
                key = f"stages.{name}.{read.key}"
                yield Finding(key, f"{read.value} and {first[0]} have other parameters; name models of one size")
            first = first or (read.value, plan)

    def _engines(self) -> Iterator[Finding]:
        """The tensors of a layer can be cut into as many parts as an engine has devices."""
        ranks = self._job.rollout.tensor_parallel
        for name, kind in self._kinds.items():
            if ranks == 1 or not kind.uses_pool(self._job):
                continue
            for read in kind.reads():
                config = self.config(read.value) if read.is_model else None
                for text in _undivided(config, ranks) if config is not None else ():
                    yield Finding(
                        "rollout.tensor_parallel",
                        f"{ranks} does not divide the {text} of {read.value} (stages.{name}); take a divisor",
                    )


def _compare(model: ReadModel, plan: Blueprint, folder: Path) -> Iterator[Finding]:
    """Weights that the model has and its files lack, or have in another shape."""
    if not _has_weights(folder):
        yield Finding(model.name, f"{folder} has no weights; give a folder written by save_pretrained")
        return
    stored = shapes(folder)
    absent = [name for name in plan.shapes if name not in stored]
    if absent:
        first = ", ".join(sorted(absent)[:3])
        yield Finding(model.name, f"its files lack {first}, which would be initialised at random; name a whole model")
    if _second_head(plan, folder) == "other":
        text = f"{_HEAD} differs from the embeddings, to which config.json ties it; set tie_word_embeddings: false"
        yield Finding(model.name, text, "warning")
    for name, shape in plan.shapes.items():
        if name in stored and stored[name] != shape:
            text = f"{name} is {stored[name]} in its files, {shape} by its config.json; correct the latter"
            yield Finding(model.name, text)
            return


def _second_head(plan: Blueprint, folder: Path) -> Literal["copy", "other"] | None:
    """What a folder stores as the output head of tied embeddings: the same numbers again, or others; None: nothing."""
    if not plan.tied or _HEAD not in shapes(folder):
        return None
    return "copy" if is_second_copy(ModelFolder.read(folder), _HEAD) else "other"


def _has_weights(folder: Path) -> bool:
    try:
        return bool(list(shard_files(folder)))
    except InputError:
        return False


def _undivided(config: PretrainedConfig, ranks: int) -> Iterator[str]:
    """Sizes that cannot be cut into equal parts; key heads may also be repeated, a whole number of times."""
    text = config.get_text_config()
    for key, name in _DIVIDED.items():
        size = getattr(text, key, None)
        if size and size % ranks:
            yield f"{size} {name}"
    groups = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    if groups % ranks and ranks % groups:
        yield f"{groups} key heads"
