"""An engine of plain transformers: slower than vLLM, runs wherever torch does."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayalign.config import RolloutConfig, SamplingConfig
from rayalign.rollout.base import EnginePart, Finished, Request
from rayalign.rollout.beam_drafts import BeamDrafts
from rayalign.rollout.drafts import Draft, Drafts
from rayalign.rollout.growing_cache import growing_cache
from rayalign.weights.files import exactly
from rayalign.weights.sets import WeightSet

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(slots=True)
class _Row:
    """A sequence in flight."""

    draft: Draft
    dice: random.Random
    sampling: SamplingConfig
    """one object for all that are equal, since to compare them takes time at each token"""


class LocalEngine:
    """Draws one token of each sequence in flight at each step, with a cache over left-padded rows.

    Sequences go in waves of at most `max_sequences`: rows leave as they end, the last ones take their places, and new
    ones enter when the wave has ended or when new weights have made the cache void. A candidate's random numbers come
    from its own seed, and the rows' mathematics do not mix: answers depend on their neighbours only through rounding.
    """

    def __init__(self, model_path: str, config: RolloutConfig) -> None:
        from transformers import AutoModelForCausalLM

        self.version = 0
        self._config = config
        self._device = torch.device("cuda" if config.gpus else "cpu")
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
        self._model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).to(self._device).eval()
        self._drafts = Drafts(config.context)
        self._beams = BeamDrafts(self._drafts, config.max_sequences)
        self._waiting: list[_Row] = []
        self._wave: list[_Row] = []
        self._samplings: dict[SamplingConfig, SamplingConfig] = {}
        self._cache: DynamicCache | None = None
        self._attention_BT = torch.empty(0)

    @property
    def pending(self) -> int:
        return self._drafts.pending

    @property
    def in_flight(self) -> list[Request]:
        return self._drafts.in_flight

    def submit(self, request: Request) -> None:
        draft = self._drafts.submit(request)
        if draft is not None and request.sampling.beams is not None:
            self._beams.add(draft)
        elif draft is not None:
            sampling = self._samplings.setdefault(request.sampling, request.sampling)
            self._waiting.append(_Row(draft, random.Random(request.seed), sampling))

    def written(self, key: str) -> list[int]:
        """The tokens so far of a candidate in flight."""
        return next((list(row.draft.tokens) for row in self._wave if row.draft.request.key == key), [])

    @torch.inference_mode()
    def abort(self, keys: Collection[str]) -> None:
        self._drafts.abort(keys)
        self._beams.abort(keys)
        self._waiting = [row for row in self._waiting if row.draft.request.key not in keys]
        self._retain([place for place, row in enumerate(self._wave) if row.draft.request.key not in keys])

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        if self._cache is None:
            free = self._config.max_sequences - len(self._wave)
            self._wave += self._waiting[:free]
            del self._waiting[:free]
        if self._beams:
            self._beams.write(self._next_tokens, self.version)
        if self._wave:
            tokens_B, logprobs_B = self._draw(self._next_logits())
            self._write(tokens_B.tolist(), logprobs_B.tolist())
        return self._drafts.take()

    @torch.no_grad()
    def load(self, weights: WeightSet) -> None:
        assert weights.kind == "full", "choose_adapter has this engine's adapters merged"
        parameters = dict(self._model.named_parameters())
        for name, tensor in exactly(weights.tensors, parameters):
            parameters[name].copy_(tensor)
        self._cache = None
        self.version = weights.version

    @torch.inference_mode()
    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        rows = [torch.tensor(list(ids)) for ids in token_ids]
        # Causal attention never sees padding on the right.
        ids_BT = pad_sequence(rows, batch_first=True).to(self._device)
        logprobs_BTV = self._model(ids_BT).logits[:, :-1].float().log_softmax(-1)
        logprobs_BT = logprobs_BTV.gather(-1, ids_BT[:, 1:, None])[..., 0]
        return [logprobs_T[: len(row) - 1].tolist() for row, logprobs_T in zip(rows, logprobs_BT, strict=True)]

    def sleep(self, *, keep_weights: bool = False) -> None:
        assert not self.pending, "an engine sleeps with nothing in flight"
        self._cache = None
        self._model.to("cpu")  # which keeps the weights in any case
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self, part: EnginePart) -> None:
        if part == "weights":
            self._model.to(self._device)

    def close(self) -> None:
        self._cache = None

    def _next_logits(self) -> Tensor:
        """Logits [B, V] after the tokens so far; without a cache all of them are read, else the last ones."""
        if self._cache is None:
            return self._read_prefixes()
        self._attention_BT = torch.nn.functional.pad(self._attention_BT, (0, 1), value=1)
        positions_BT = self._attention_BT.sum(-1, keepdim=True) - 1
        return self._read(torch.tensor([[row.draft.tokens[-1]] for row in self._wave]), positions_BT)

    def _read_prefixes(self) -> Tensor:
        """Fill the cache; a prefix that several sequences share, such as a prompt's candidates, is read once."""
        prefixes = [(*row.draft.request.prompt_ids, *row.draft.tokens) for row in self._wave]
        places = {prefix: place for place, prefix in enumerate(dict.fromkeys(prefixes))}
        rows = [torch.tensor(prefix) for prefix in places]
        input_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        lengths_B = torch.tensor([len(row) for row in rows])
        width = input_BT.shape[1]
        self._attention_BT = (torch.arange(width) >= width - lengths_B[:, None]).long().to(self._device)
        self._cache = growing_cache(self._model.config, self._config.context)
        logits_BV = self._read(input_BT, (self._attention_BT.cumsum(-1) - 1).clamp(min=0))
        if len(places) == len(prefixes):
            return logits_BV
        place_B = torch.tensor([places[prefix] for prefix in prefixes], device=self._device)
        self._select(place_B)
        return logits_BV[place_B]

    def _read(self, input_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Logits [B, V] after these tokens, which join the cache."""
        outputs = self._model(
            input_ids=input_BT.to(self._device),
            attention_mask=self._attention_BT,
            position_ids=positions_BT,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        logits_BV: Tensor = outputs.logits[:, -1].float()
        return logits_BV

    def _select(self, index_N: Tensor) -> None:
        """Make the cache's rows those of these numbers."""
        assert self._cache is not None
        self._cache.batch_select_indices(index_N)
        self._attention_BT = self._attention_BT[index_N]

    def _next_tokens(
        self, prefixes: Sequence[tuple[int, ...]], count: int, sampling: SamplingConfig
    ) -> list[list[tuple[int, float]]]:
        """Likely next tokens of each sequence, which is read whole: a search keeps no cache."""
        rows = [torch.tensor(prefix) for prefix in prefixes]
        input_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self._device)
        last_B = torch.tensor([len(row) - 1 for row in rows], device=self._device)
        hidden_BTD = self._model.base_model(input_ids=input_BT, use_cache=False).last_hidden_state
        hidden_BD = hidden_BTD[torch.arange(len(rows), device=self._device), last_B]
        logits_BV = self._model.get_output_embeddings()(hidden_BD).float()
        top = processed_logprobs(logits_BV, sampling).topk(min(count, logits_BV.shape[-1]))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [list(zip(tokens, logprobs, strict=True)) for tokens, logprobs in pairs]

    def _draw(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        tokens_B = torch.empty(len(self._wave), dtype=torch.long, device=self._device)
        logprobs_BV = torch.empty_like(logits_BV)
        uniform_B = torch.tensor([row.dice.random() for row in self._wave], dtype=torch.float64, device=self._device)
        for sampling in {id(row.sampling): row.sampling for row in self._wave}.values():
            alike_B = torch.tensor([row.sampling is sampling for row in self._wave], device=self._device)
            logprobs_BV[alike_B] = processed_logprobs(logits_BV[alike_B], sampling)
            if sampling.temperature == 0.0:
                tokens_B[alike_B] = logits_BV[alike_B].argmax(-1)
            else:
                tokens_B[alike_B] = invert(logprobs_BV[alike_B], uniform_B[alike_B])
        return tokens_B, logprobs_BV.gather(-1, tokens_B[:, None])[:, 0]

    def _write(self, tokens: list[int], logprobs: list[float]) -> None:
        unfinished = []
        for place, row in enumerate(self._wave):
            reason = row.draft.add(tokens[place], logprobs[place], self.version)
            if reason:
                self._drafts.finish(row.draft, reason)
            else:
                unfinished.append(place)
        self._retain(unfinished)

    def _retain(self, rows: list[int]) -> None:
        if len(rows) == len(self._wave):
            return
        if not rows:
            self._cache = None
        if not rows and not self._waiting:
            self._samplings.clear()
        if self._cache is not None:
            rows = filled(rows)
            self._select(torch.tensor(rows, device=self._device))
        self._wave = [self._wave[row] for row in rows]


def processed_logprobs(logits_BV: Tensor, sampling: SamplingConfig) -> Tensor:
    """Log-probs [B, V] of the distribution that is sampled from: temperature, then top-k, then top-p; -inf if left out.

    Greedy decoding (temperature 0) has those of temperature 1.
    """
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits_BV = logits_BV / (sampling.temperature or 1.0)
    if sampling.top_k:
        logits_BV = TopKLogitsWarper(sampling.top_k)(None, logits_BV)
    if sampling.top_p < 1.0:
        logits_BV = TopPLogitsWarper(sampling.top_p)(None, logits_BV)
    return logits_BV.log_softmax(-1)


def invert(logprobs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Tokens [B] drawn by inverting the cumulative distribution at one uniform number a row; never one of mass 0."""
    total_BV = logprobs_BV.double().exp().cumsum(-1)
    return torch.searchsorted(total_BV, uniform_B[:, None] * total_BV[:, -1:], right=True)[:, 0]


def filled(rows: list[int]) -> list[int]:
    """The rows that stay, ascending, in an order that moves few: later ones take the places of those that leave."""
    stay = set(rows)
    late = [row for row in rows if row >= len(rows)]
    return [place if place in stay else late.pop() for place in range(len(rows))]
