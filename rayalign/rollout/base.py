"""The contract of a rollout engine. Token ids in, token ids out, with the log-probs of what was sampled from.

    EngineLoop (one thread)          Engine (vllm | local | scripted)
      inbox: submit, load, ... ->      submit, abort, load, score, sleep, wake   between steps
      finished groups out      <-      step

An engine is driven from one thread only; the loop around it is in `rayalign.rollout.loop`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rayalign.config import SamplingConfig
from rayalign.types import Trajectory

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """One group to be written: a prompt in token ids, and one seed for each candidate."""

    group_id: str
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: SamplingConfig
    stop_ids: tuple[int, ...]
    """tokens that end an answer; the one drawn is kept as the answer's last token"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A group that left the engine: whole, or failed with a reason."""

    group_id: str
    trajectories: tuple[Trajectory, ...]
    """in the order of the request's seeds; empty when failed"""
    failure: str | None = None


class Engine(Protocol):
    """What every engine can do; all calls from one thread."""

    version: int
    """of the weights it samples from; each drawn token is attributed to it"""

    @property
    def pending(self) -> int:
        """Groups submitted and not finished."""

    def submit(self, request: Request) -> None:
        """Take a group in; an impossible one (longer than the context) finishes at once as failed."""

    def step(self) -> list[Finished]:
        """Draw some more tokens; the groups that this finished."""

    def abort(self, group_ids: Collection[str]) -> None:
        """Forget groups; they do not come out."""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace all weights (Hugging Face names); groups in flight go on with the new ones."""

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs at temperature 1 of each token after the first, computed with the loaded weights."""

    def sleep(self) -> None:
        """Give device memory back; only with nothing pending."""

    def wake(self) -> None:
        """Take device memory again; weights must be loaded before the next submit."""

    def close(self) -> None:
        """End for good."""


def candidate_seed(run_seed: int, iteration: int, prompt_id: str, index: int) -> int:
    """The seed of one candidate: it depends on nothing that order, batch or engine could change."""
    text = f"{run_seed}/{iteration}/{prompt_id}/{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 33
