"""The shipped fake: a bigram table for a model, and answers that can be written in advance."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from rayalign.rollout.base import EnginePart, Finished, Request
from rayalign.rollout.drafts import Draft, Drafts
from rayalign.weights.files import exactly
from rayalign.weights.sets import WeightSet

WEIGHT = "bigram.weight"
Script = Callable[[Request], Sequence[int]]


class ScriptedEngine:
    """An engine whose next token depends on the last one alone, through a table of logits [V, V].

    An answer is what `script` returns for a request, then (or without a script) drawn from the table with the
    request's seed; log-probs are the table's in both cases.
    """

    def __init__(
        self,
        table_VV: Tensor,
        *,
        script: Script | None = None,
        context: int = 128,
        tokens_per_step: int = 1,
        fail: Collection[str] = (),
    ) -> None:
        """`fail` holds keys, or their beginnings, of candidates that come out as failed."""
        self.version = 0
        self._logits_VV = table_VV.clone()
        self._script = script
        self._tokens_per_step = tokens_per_step
        self._fail = tuple(fail)
        self._drafts = Drafts(context)
        self._writing: list[tuple[Draft, random.Random]] = []
        self._awake: set[EnginePart] = {"weights", "cache"}

    @property
    def pending(self) -> int:
        return self._drafts.pending

    @property
    def in_flight(self) -> list[Request]:
        return self._drafts.in_flight

    def submit(self, request: Request) -> None:
        draft = self._drafts.submit(request)
        if draft is None:
            return
        if request.key.startswith(self._fail):
            self._drafts.fail(request.key, "the script says so")
        else:
            self._writing.append((draft, random.Random(request.seed)))

    def abort(self, keys: Collection[str]) -> None:
        self._drafts.abort(keys)
        self._writing = [(draft, dice) for draft, dice in self._writing if draft.request.key not in keys]

    def step(self) -> list[Finished]:
        assert self._awake == {"weights", "cache"}, "an engine that sleeps writes nothing"
        for _ in range(self._tokens_per_step):
            self._writing = [(draft, dice) for draft, dice in self._writing if not self._write(draft, dice)]
        return self._drafts.take()

    def load(self, weights: WeightSet) -> None:
        for _, table_VV in exactly(weights.tensors, [WEIGHT]):
            self._logits_VV = table_VV.clone()
        self.version = weights.version

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        logprobs_VV = self._logits_VV.log_softmax(-1)
        return [logprobs_VV[list(ids[:-1]), list(ids[1:])].tolist() for ids in token_ids]

    def sleep(self, *, keep_weights: bool = False) -> None:
        assert not self.pending, "an engine sleeps with nothing in flight"
        self._awake.clear()
        if not keep_weights:
            self._logits_VV = torch.full_like(self._logits_VV, torch.nan)

    def wake(self, part: EnginePart) -> None:
        self._awake.add(part)

    def close(self) -> None:
        pass

    def _write(self, draft: Draft, dice: random.Random) -> bool:
        last = (*draft.request.prompt_ids, *draft.tokens)[-1]
        logprobs_V = (self._logits_VV[last] / (draft.request.sampling.temperature or 1.0)).log_softmax(-1)
        script = self._script(draft.request) if self._script else ()
        written = len(draft.tokens)
        if written < len(script):
            token = script[written]
        elif draft.request.sampling.temperature == 0.0:
            token = int(logprobs_V.argmax())
        else:
            token = dice.choices(range(len(logprobs_V)), logprobs_V.exp().tolist())[0]
        reason = draft.add(token, float(logprobs_V[token]), self.version)
        if reason:
            self._drafts.finish(draft, reason)
        return reason is not None


def random_table(vocab_size: int, seed: int = 0) -> Tensor:
    """A table of logits [V, V] to start from."""
    return torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed))
