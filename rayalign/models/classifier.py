"""Any sequence-classification checkpoint with one output, encoder or decoder, as what scores an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rayalign.data.chat import encode_example
from rayalign.data.tokenizer_files import tokenizer_class
from rayalign.errors import InputError
from rayalign.models.catalogue import READS_PAIRS
from rayalign.models.heads import TokenValues
from rayalign.models.load import refuse_missing
from rayalign.types import Prompt, Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_Inputs = Mapping[str, Sequence[int]]
"""input name -> one number for each token"""

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
        from transformers import AutoModelForSequenceClassification

        try:
            self._tokenizer = tokenizer_class(path).from_pretrained(path, trust_remote_code=False)
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                path, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise InputError(
                f"reward model {path}: cannot be loaded ({first_line}); give a folder in save_pretrained's form"
            ) from error
        if model.config.num_labels != 1:
            raise InputError(f"reward model {path}: its head has {model.config.num_labels} outputs, a reward has one")
        if getattr(model.config, READS_PAIRS, False):
            raise InputError(f"reward model {path}: it compares two answers; name one that scores single answers")
        refuse_missing(path, loading_info)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)
        self._token_values = TokenValues(model) if _has_token_head(model) else None
        self._context = min(context, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score for each answer; absent where it is too long or not finite."""
        rows = [self._encode(prompt, answer) for prompt, answer in items]
        lengths = [len(row["input_ids"]) for row in rows]
        fitting = [i for i, length in enumerate(lengths) if length <= self._context]
        scores = [Score(None, f"prompt and answer are longer than {self._context} tokens")] * len(rows)
        fitting.sort(key=lambda i: lengths[i])
        for part in _parts(fitting, lengths):
            values_B = self._values([rows[i] for i in part])
            for i, value in zip(part, values_B.tolist(), strict=True):
                scores[i] = Score(value) if math.isfinite(value) else Score(None, "the model's score is not finite")
        return scores

    def _values(self, rows: Sequence[_Inputs]) -> Tensor:
        """The model's output for each row.

        A head that gives a number for each token is read at the last token, as in training. transformers would read it
        at the last token that is not the padding token, which is another one where padding is the end token.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        mask_BT = _padded([[1] * len(row["input_ids"]) for row in rows], longest, 0).to(self._device)
        if self._token_values is not None:
            ids_BT = _padded([row["input_ids"] for row in rows], longest, 0).to(self._device)
            return self._token_values(ids_BT, mask_BT, mask_BT)[1]
        padding = {"input_ids": self._tokenizer.pad_token_id or 0}
        inputs_BT: dict[str, Tensor] = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            inputs_BT[name] = _padded(values, longest, padding.get(name, 0)).to(self._device)
        return self._model(**inputs_BT, attention_mask=mask_BT).logits[:, 0].float()

    def _encode(self, prompt: Prompt, answer: str) -> _Inputs:
        """What the model reads of a row: token ids, and token types where the tokenizer tells the two texts apart."""
        if self._tokenizer.chat_template:
            return {"input_ids": list(encode_example(self._tokenizer, prompt, answer)[0])}
        question = "\n\n".join(message.content for message in prompt.messages)
        encoding = self._tokenizer(question, answer, return_attention_mask=False, split_special_tokens=True)
        return {name: list(values) for name, values in encoding.items()}


def _has_token_head(model: PreTrainedModel) -> bool:
    """A decoder with a linear layer `score` over its hidden states."""
    return "score" in dict(model.named_children())


def _padded(rows: Sequence[Sequence[int]], length: int, padding: int) -> Tensor:
    """Rows of at most this length, padded on the right."""
    return torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows])


def _parts(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows sorted by length, as many together as fit into one forward pass."""
    part: list[int] = []
    for i in order:
        if part and lengths[i] * (len(part) + 1) > _TOKENS:
            yield part
            part = []
        part.append(i)
    if part:
        yield part
