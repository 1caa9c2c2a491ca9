"""Any sequence-classification checkpoint with one output, encoder or decoder, as what scores an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from rayalign.data.chat import encode_example
from rayalign.errors import InputError
from rayalign.models.load import refuse_missing
from rayalign.types import Prompt, Score

_TOKENS = 16_384
"""padded tokens of one forward pass"""


class Classifier:
    """A frozen model on the first device there is; one number for prompt and answer together.

    With a chat template the dialogue is rendered as in the training of our reward models, else prompt and answer are
    given as the two texts of a pair.

    Raises:
        InputError: no such model, or its head has not one output.
    """

    def __init__(self, path: str, *, context: int) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model, told = AutoModelForSequenceClassification.from_pretrained(
                path, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(
                f"reward model {path}: cannot be loaded ({first}); give a folder in save_pretrained's form"
            ) from error
        if model.config.num_labels != 1:
            raise InputError(f"reward model {path}: its head has {model.config.num_labels} outputs, a reward has one")
        refuse_missing(path, told)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)
        self._context = min(context, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score for each answer; absent where it is too long or not finite."""
        rows = [self._encode(prompt, answer) for prompt, answer in items]
        fitting = [i for i, row in enumerate(rows) if len(row) <= self._context]
        found = [Score(None, f"prompt and answer are longer than {self._context} tokens")] * len(rows)
        fitting.sort(key=lambda i: len(rows[i]))
        for part in self._parts(fitting, rows):
            padded = self._tokenizer.pad(
                {"input_ids": [rows[i] for i in part]}, padding_side="right", return_tensors="pt"
            )
            values = self._model(**padded.to(self._device)).logits[:, 0].float().tolist()
            for i, value in zip(part, values, strict=True):
                found[i] = Score(value) if math.isfinite(value) else Score(None, "the model's score is not finite")
        return found

    def _parts(self, order: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Rows sorted by length, as many together as fit into one forward pass."""
        part: list[int] = []
        for i in order:
            if part and len(rows[i]) * (len(part) + 1) > _TOKENS:
                yield part
                part = []
            part.append(i)
        if part:
            yield part

    def _encode(self, prompt: Prompt, answer: str) -> list[int]:
        if self._tokenizer.chat_template:
            return list(encode_example(self._tokenizer, prompt, answer)[0])
        question = "\n\n".join(message.content for message in prompt.messages)
        return list(self._tokenizer(question, answer).input_ids)
