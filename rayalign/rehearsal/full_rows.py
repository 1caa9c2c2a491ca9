"""Every row of a job's data as its stages will read it: schema, template, and length in tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rayalign.config import DataConfig, Job, LoadedJob
from rayalign.data.chat import cut_to_fit, encode_example, prompt_ids
from rayalign.data.readers import Use, stream_examples
from rayalign.errors import InputError
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kinds_of
from rayalign.rehearsal.findings import Finding, Level
from rayalign.rehearsal.row_choice import Choice, choose
from rayalign.rehearsal.stand_ins import data_sections, from_files
from rayalign.types import Example, Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOST = 0.5
"""share of rows that a stage may leave out before that is an error"""
NOTABLE = 0.05
"""share that is worth a warning"""
TEMPLATE = 64
"""bytes that a template may add to each turn, with room to spare"""


class FullRows:
    """Reads all rows once; `choices` are those to train on, by `STAGE.KEY`."""

    def __init__(self, loaded: LoadedJob) -> None:
        self._loaded = loaded
        self._job: Job = loaded.job
        self._inputs = Inputs(loaded)
        self.choices: dict[str, Choice] = {}

    def check(self) -> Iterator[Finding]:
        """Every finding about tokenizers, templates and rows."""
        try:
            self._inputs.check()
        except InputError as error:
            yield Finding("inputs", str(error))
            return
        for name, kind in kinds_of(self._job).items():
            for key, data, use in data_sections(kind):
                yield from self._section(name, key, data, use, kind)

    def _section(self, name: str, key: str, data: DataConfig, use: Use, kind: object) -> Iterator[Finding]:
        where = f"stages.{name}.{key}"
        if not from_files(data):
            return
        whole = data.model_copy(update={"preferences": None})
        watch = _Watch(self._tokenizer(kind), self._job.rollout.context, use)
        try:
            examples = stream_examples(whole, seed=self._job.seed, use=use, report=self._inputs.report_left_out)
            choice = choose(watch.over(examples), self._job.seed)
        except InputError as error:
            yield Finding(where, str(error))
            return
        self.choices[f"{name}.{key}"] = choice
        for text, level in watch.problems():
            yield Finding(where, text, level)

    def _tokenizer(self, kind: object) -> PreTrainedTokenizerBase | None:
        """Of the stage's model; None for a stage that makes its own from these rows."""
        model = getattr(getattr(kind, "stage", None), "model", None)
        if not isinstance(model, str) or model.startswith("preset:"):
            return None
        return self._inputs.tokenizer(model)


class _Watch:
    """Looks at rows while they pass: which do not fit, and which the template does not show whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, context: int, use: Use) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._use = use
        self._total = self._too_long = 0
        self._first_too_long = ""
        self._forms: set[tuple[str, ...]] = set()
        self._dropped: dict[str, str] = {}
        """role of a turn that the template drops -> its prompt"""

    def over(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The same rows."""
        for example in examples:
            self._total += 1
            if self._tokenizer is not None and example.prompt.messages:
                self._look(self._tokenizer, example)
            yield example

    def problems(self) -> Iterator[tuple[str, Level]]:
        """What is wrong, and how much."""
        for role, prompt in self._dropped.items():
            yield f"the chat template drops the {role} turn (the first: prompt {prompt}); correct the template", "error"
        share = self._too_long / self._total if self._total else 0.0
        if share > NOTABLE:
            level: Level = "error" if share > LOST else "warning"
            text = (
                f"{self._too_long} of {self._total} rows are too long for rollout.context {self._context} with the "
                f"template's tokens and would be left out (the first: prompt {self._first_too_long}); raise it"
            )
            yield text, level

    def _look(self, tokenizer: PreTrainedTokenizerBase, example: Example) -> None:
        form = tuple(message.role for message in example.prompt.messages)
        if form not in self._forms:
            self._forms.add(form)
            self._find_dropped(tokenizer, example.prompt)
        if self._use in ("prompts", "corpus"):
            return  # `Inputs` has measured the prompts, and a corpus is cut
        answers = [candidate.text for candidate in example.candidates]
        if self._certainly_fits(example.prompt.messages, answers):
            return
        if any(self._is_too_long(tokenizer, example.prompt, answer) for answer in answers):
            self._too_long += 1
            self._first_too_long = self._first_too_long or example.prompt.id

    def _certainly_fits(self, messages: tuple[Message, ...], answers: list[str]) -> bool:
        """A token has at least one byte, so most rows need not be tokenised."""
        turns = sum(len(message.content.encode(errors="ignore")) + TEMPLATE for message in messages)
        longest = max((len(answer.encode(errors="ignore")) for answer in answers), default=0)
        return turns + longest + TEMPLATE <= self._context

    def _is_too_long(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str) -> bool:
        """Even without its oldest turns."""
        ids, mask = encode_example(tokenizer, prompt, answer)
        if len(ids) <= self._context:
            return False
        return cut_to_fit(tokenizer, prompt, self._context - sum(mask)) is None

    def _find_dropped(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> None:
        """Turns without which the prompt has the same tokens."""
        whole = prompt_ids(tokenizer, prompt)
        for place, message in enumerate(prompt.messages[:-1]):
            if message.role != "system" or not message.content.strip():
                continue
            others = (*prompt.messages[:place], *prompt.messages[place + 1 :])
            if prompt_ids(tokenizer, Prompt(prompt.id, others)) == whole:
                self._dropped.setdefault(message.role, prompt.id)
