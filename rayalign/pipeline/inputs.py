"""What stages read: the tokenizers of their models and the rows of their data, proven before Ray starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayalign.config import DataConfig, LoadedJob, Reference
from rayalign.data import readers
from rayalign.data.chat import check_turns, encode_example, encode_prompt, encode_turn, load_tokenizer
from rayalign.data.left_out import OncePerRun
from rayalign.data.reward_tokens import reward_token_ids
from rayalign.errors import InputError
from rayalign.models.catalogue import model_path
from rayalign.pipeline.hashing import stage_hashes, stage_states
from rayalign.pipeline.kind import Read, StageKind, kinds_of
from rayalign.pipeline.outputs import output_path
from rayalign.pipeline.stage_rows import stage_paths, with_files
from rayalign.rollout.environment import Turns, load_environment
from rayalign.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Inputs:
    """Tokenizers and fitting prompts of a job's stages, each made once, whether for `check` or for the stage."""

    def __init__(self, loaded: LoadedJob) -> None:
        self._loaded = loaded
        self._job = loaded.job
        self._kinds = kinds_of(loaded.job)
        self._states, self._hashes = stage_states(loaded.job), stage_hashes(loaded.job)
        self.report_left_out = OncePerRun()
        """for everything that reads rows of this run"""
        self._rows: dict[DataConfig, list[Example]] = {}
        self._forms: dict[tuple[DataConfig, readers.Use], list[tuple[Example, str]]] = {}
        self._corpora: dict[str, list[Example]] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._fitting: dict[tuple[int, DataConfig, int], list[Example]] = {}

    def check(self) -> None:
        """Prove that every stage still to run has its tokenizers, that its rows parse to the end, and its prompts fit.

        Raises:
            InputError: the first that does not, with the place in the job.
        """
        for name, kind in self._kinds.items():
            if self._states[name] == "finished":
                continue
            for read in kind.reads():
                with self._blaming(f"stages.{name}.{read.key}"):
                    _check_folder(read)
            with self._blaming(f"stages.{name}.data"):
                self._read_rows(name, kind)
            for key, model in kind.tokenizers(name):
                with self._blaming(f"stages.{name}.{key}"):
                    self._check_template(name, kind, self.tokenizer(model))
            for key, model in kind.policy_readers().items():
                with self._blaming(f"stages.{name}.{key}"):
                    self._check_vocabulary(key, model, kind.stage.model)
            with self._blaming(f"stages.{name}.model"):
                self._check_reward_tokens(kind)
            with self._blaming(f"stages.{name}.data"):
                self._check_room(name, kind)
            for key, data, use in kind.further_data():
                with self._blaming(f"stages.{name}.{key}"):
                    readers.check(data, use=use, whole=True, report=self.report_left_out)
            with self._blaming(f"stages.{name}.environment"):
                self._check_environment(name, kind)

    def prompts(self, name: str) -> list[Example]:
        """The prompts of a stage as its data give them, each once."""
        data = self._data(name)
        if data not in self._rows:
            placed = list(self._placed(data, "prompts"))
            self._rows[data] = [example for example, _ in placed]
            self._forms[data, "prompts"] = _first_of_forms(placed)
        return self._rows[data]

    def fitting(self, name: str, model: str) -> list[Example]:
        """The prompts of a stage that leave room for an answer in the tokens of one of its models.

        Raises:
            InputError: one does not, and the data are not told to skip such rows.
        """
        sampling = self._kinds[name].sampling
        assert sampling is not None, "only a stage that draws answers has fitting prompts"
        tokenizer, reserve = self.tokenizer(model), sampling.max_tokens
        # all models that a job makes from one start have one tokenizer
        key = id(tokenizer), self._data(name), reserve
        if key not in self._fitting:
            self._fitting[key] = self._fit(name, tokenizer, reserve)
        return self._fitting[key]

    def read_corpus(self, name: str) -> list[Example]:
        """The corpus of a stage, remembered until `corpus` hands it over."""
        if name not in self._corpora:
            self._corpora[name] = [example for example, _ in self._placed(self._data(name), "corpus")]
        return self._corpora[name]

    def corpus(self, name: str) -> list[Example]:
        """The corpus of a stage; handed over once, since it may be large."""
        corpus = self.read_corpus(name)
        del self._corpora[name]
        return corpus

    def tokenizer(self, model: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model as the job names it, whose stage need not have run."""
        if model not in self._tokenizers:
            self._tokenizers[model] = self._make_tokenizer(model)
        return self._tokenizers[model]

    def cached(self, name: str) -> Path:
        """Where runs of the same content keep the model that a stage makes from nothing."""
        return Path(self._job.output).resolve() / ".cache" / "pretrain" / self._hashes[name]

    def _make_tokenizer(self, model: str) -> PreTrainedTokenizerBase:
        reference = Reference.parse(model)
        if reference is None:
            return load_tokenizer(model_path(model), template=self._job.chat_template)
        name = reference.stage
        if self._states[name] == "finished":
            return load_tokenizer(str(output_path(self._job, model)))
        return self._kinds[name].make_tokenizer(self, name, reference.role)

    @contextmanager
    def _blaming(self, key: str) -> Iterator[None]:
        """Put the place in the job before the message of an InputError."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._loaded.origin(key)}: {key}: {error}") from error

    def _read_rows(self, name: str, kind: StageKind[Any]) -> None:
        """All rows of a stage parse."""
        use = kind.data_use
        if use is None or self._awaits_rows(kind):
            return
        if use != "corpus":
            self._forms_of(name, kind)
        elif name not in self._corpora and not self.cached(name).exists():
            readers.check(self._data(name), use=use, whole=True, report=self.report_left_out)

    def _check_room(self, name: str, kind: StageKind[Any]) -> None:
        """The prompts of a stage leave room for an answer."""
        if kind.data_use == "prompts" and not self._awaits_rows(kind):
            for model in kind.prompt_models():
                self.fitting(name, model)

    def _check_template(self, name: str, kind: StageKind[Any], tokenizer: PreTrainedTokenizerBase) -> None:
        """The template renders an answer to each form that the stage's dialogues have."""
        if kind.data_use in (None, "corpus") or self._awaits_rows(kind):
            return
        for example, where in self._forms_of(name, kind):
            try:
                encode_example(tokenizer, example.prompt, "yes")
            except InputError as error:
                raise InputError(f"{where}: {error}") from error

    def _forms_of(self, name: str, kind: StageKind[Any]) -> list[tuple[Example, str]]:
        """The first row of each form that the stage's dialogues have, with its place; all rows are read for it."""
        use = kind.data_use
        assert use is not None, f"stage {name} reads no rows"
        if use == "prompts":
            self.prompts(name)
        data = self._data(name)
        if (data, use) not in self._forms:
            self._forms[data, use] = _first_of_forms(self._placed(data, use))
        return self._forms[data, use]

    def _check_vocabulary(self, role: str, model: str, policy: str) -> None:
        if self.tokenizer(model).get_vocab() != self.tokenizer(policy).get_vocab():
            raise InputError(
                f"{model} has another vocabulary than the policy, whose token ids the {role} reads; "
                f"name a model with the policy's tokenizer, such as {role}: {policy}"
            )

    def _check_reward_tokens(self, kind: StageKind[Any]) -> None:
        """The model's tokenizer has as many reward tokens as the stage uses."""
        needed = kind.reward_tokens
        if not needed:
            return
        model = kind.stage.model
        present = len(reward_token_ids(self.tokenizer(model)))
        if present < needed:
            raise InputError(
                f"{model} has {present} reward tokens, but the stage uses {needed}; "
                f"add a stage {{kind: reward_tokens, model: {model}, count: {needed}}} and name that one here"
            )

    def _check_environment(self, name: str, kind: StageKind[Any]) -> None:
        """The environment can be made for the stage's prompts, and reply in the tokens of its models."""
        if kind.environment is None or self._awaits_rows(kind):
            return
        environment = load_environment(kind.environment)
        for model in kind.prompt_models():
            tokenizer = self.tokenizer(model)
            check_turns(tokenizer)
            turns = Turns(partial(encode_turn, tokenizer))
            for example in self.fitting(name, model)[:1]:
                environment(example.prompt, turns)

    def _data(self, name: str) -> DataConfig:
        data = self._kinds[name].data
        assert data is not None, f"stage {name} reads no data of its own"
        return with_files(data, partial(output_path, self._job))

    def _placed(self, data: DataConfig, use: readers.Use) -> readers.Placed:
        return readers.placed_examples(data, seed=self._job.seed, use=use, report=self.report_left_out)

    def _awaits_rows(self, kind: StageKind[Any]) -> bool:
        """Whether rows of its data are still to be written by an earlier stage."""
        if kind.data is None:
            return False
        references = [Reference.parse(text) for _, text in stage_paths(kind.data)]
        return any(reference and self._states[reference.stage] != "finished" for reference in references)

    def _fit(self, name: str, tokenizer: PreTrainedTokenizerBase, reserve: int) -> list[Example]:
        examples, context = self.prompts(name), self._job.rollout.context
        fitting: list[Example] = []
        too_long: list[Example] = []
        for example in examples:
            ids = encode_prompt(tokenizer, example.prompt, context=context, reserve=reserve)
            (too_long if ids is None else fitting).append(example)
        if too_long and (self._data(name).too_long == "refuse" or not fitting):
            first = too_long[0].prompt
            raise InputError(
                f"{len(too_long)} of {len(examples)} prompts leave no room for {reserve} new tokens in a context of "
                f"{context} (the first: {first.id}, {first.messages[-1].content[:60]!r}); raise rollout.context, lower "
                "sampling.max_tokens, or leave such rows out with data.too_long=skip"
            )
        if too_long:
            logger.warning("%s: %d of %d prompts are too long and left out", name, len(too_long), len(examples))
        return fitting


def _first_of_forms(placed: Iterable[tuple[Example, str]]) -> list[tuple[Example, str]]:
    """The first example of each sequence of roles, with its place."""
    forms: dict[tuple[str, ...], tuple[Example, str]] = {}
    for example, where in placed:
        roles = tuple(turn.role for turn in example.prompt.messages)
        forms.setdefault(roles, (example, where))
    return list(forms.values())


def _check_folder(read: Read) -> None:
    """A folder that a stage reads holds a model that can be built; an adapter's folder is proven where it is read."""
    folder = Path(read.value)
    if read.is_model and (folder / "config.json").is_file():
        from rayalign.models.verify import verify_folder

        verify_folder(folder)
