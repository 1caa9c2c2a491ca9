"""The shipped fake: a bigram table for a model, and answers that can be written in advance."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor

from rayalign.rollout.assembly import Assembly, Draft
from rayalign.rollout.base import Finished, Request
from rayalign.weights.files import exactly

WEIGHT = "bigram.weight"
Script = Callable[[Request, int], Sequence[int]]


class ScriptedEngine:
    """An engine whose next token depends on the last one alone, through a table of logits [V, V].

    An answer is what `script` says for a request and a candidate's index, then (or without a script) drawn from the
    table with the candidate's seed; log-probs are the table's in both cases.
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
        """`fail` names groups that come out as failed."""
        self.version = 0
        self._logits_VV = table_VV.clone()
        self._script = script
        self._tokens_per_step = tokens_per_step
        self._fail = fail
        self._assembly = Assembly(context)
        self._drafts: list[tuple[Draft, random.Random]] = []

    @property
    def pending(self) -> int:
        return self._assembly.pending

    def submit(self, request: Request) -> None:
        drafts = self._assembly.submit(request)
        if drafts and request.group_id in self._fail:
            self._assembly.fail(request.group_id, "the script says so")
            return
        self._drafts += [(draft, random.Random(request.seeds[draft.index])) for draft in drafts]

    def step(self) -> list[Finished]:
        for _ in range(self._tokens_per_step):
            self._drafts = [(draft, dice) for draft, dice in self._drafts if not self._write(draft, dice)]
        return self._assembly.take()

    def abort(self, group_ids: Collection[str]) -> None:
        self._assembly.abort(group_ids)
        self._drafts = [d for d in self._drafts if d[0].request.group_id not in group_ids]

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        for _, table_VV in exactly(weights, [WEIGHT]):
            self._logits_VV = table_VV.clone()
        self.version = version

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        logprobs_VV = self._logits_VV.log_softmax(-1)
        return [logprobs_VV[list(ids[:-1]), list(ids[1:])].tolist() for ids in token_ids]

    def sleep(self) -> None:
        assert not self.pending

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _write(self, draft: Draft, dice: random.Random) -> bool:
        last = (*draft.request.prompt_ids, *draft.token_ids)[-1]
        logprobs_V = (self._logits_VV[last] / (draft.request.sampling.temperature or 1.0)).log_softmax(-1)
        script = self._script(draft.request, draft.index) if self._script else ()
        written = len(draft.token_ids)
        if written < len(script):
            token = script[written]
        elif draft.request.sampling.temperature == 0.0:
            token = int(logprobs_V.argmax())
        else:
            token = dice.choices(range(len(logprobs_V)), logprobs_V.exp().tolist())[0]
        reason = draft.add(token, float(logprobs_V[token]), self.version)
        if reason:
            self._assembly.finish(draft, reason)
        return reason is not None


def random_table(vocab_size: int, seed: int = 0) -> Tensor:
    """A table of logits [V, V] to start from."""
    return torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed))
