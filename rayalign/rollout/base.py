"""The contract of a rollout engine. Token ids in, token ids out, with the log-probs of what was sampled from.

    EngineLoop (one thread)            Engine (vllm | local | scripted)
      inbox: submit, load, ... ->        submit, abort, load, score, sleep, wake   between steps
      finished candidates out  <-        step

One request is one candidate, or its next turn with a longer prefix; groups are assembled above the pool, in
`rayalign.coordinator.groups`. An engine is driven from one thread only, by the loop in `rayalign.rollout.loop`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from rayalign.config import SamplingConfig
from rayalign.pickling import fast_pickle
from rayalign.types import FinishReason

if TYPE_CHECKING:
    from rayalign.weights.sets import WeightSet


EnginePart = Literal["weights", "cache"]
"""of an engine's device memory"""
VersionRuns = tuple[tuple[int, int], ...]
"""(first token, weight version) of each run of tokens that one version wrote; tokens count from the answer's first"""


@fast_pickle
@dataclass(frozen=True, slots=True)
class Request:
    """One candidate to be written, or its next turn with a longer prefix."""

    key: str
    """unique among the requests in flight; a candidate's next turn has the same one again"""
    prompt_ids: tuple[int, ...]
    seed: int
    sampling: SamplingConfig
    stop_ids: tuple[int, ...]
    """tokens that end an answer; the one drawn is kept as the answer's last token"""
    draw: int = 0
    """the candidate's place among those that its prompt gets by this sampling"""


@fast_pickle
@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate that left the engine: written, or failed with a reason."""

    key: str
    tokens: tuple[int, ...] = ()
    """of the answer alone"""
    logprobs: tuple[float, ...] = ()
    """one for each token, of the distribution that was sampled from"""
    version_runs: VersionRuns = ()
    reason: FinishReason | None = None
    """why the answer ended; None when it failed"""
    failure: str | None = None
    text: str | None = None
    """of the tokens; None: whoever gets the candidate decodes them"""


class Engine(Protocol):
    """What every engine can do; all calls from one thread."""

    version: int
    """of the weights it samples from; each drawn token is attributed to it"""

    @property
    def pending(self) -> int:
        """Candidates submitted and not finished."""

    @property
    def in_flight(self) -> list[Request]:
        """The candidates that are being written or wait for it, in the order in which they came."""

    def submit(self, request: Request) -> None:
        """Accept a candidate; an impossible one (longer than the context) finishes at once as failed."""

    def abort(self, keys: Collection[str]) -> None:
        """Give up candidates in flight, which never come out; keys of others are ignored."""

    def step(self) -> list[Finished]:
        """Draw some more tokens; the candidates that this finished."""

    def load(self, weights: WeightSet) -> None:
        """Replace the weights by those of the set; candidates in flight go on with the new ones."""

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs at temperature 1 of each token after the first, computed with the loaded weights."""

    def sleep(self, *, keep_weights: bool = False) -> None:
        """Free the device memory; only with nothing pending.

        Args:
            keep_weights: in host memory; else they are lost, and new ones must be loaded once that part is awake.
        """

    def wake(self, part: EnginePart) -> None:
        """Allocate one part of the device memory again, first the weights; candidates are written with both."""

    def close(self) -> None:
        """End for good."""


def restart(engine: Engine) -> int:
    """Write the candidates in flight anew, from their first token; how many there are.

    Each keeps its seed. With other random numbers a long answer, which new weights meet most often, would have several
    chances to become a short one.
    """
    requests = engine.in_flight
    engine.abort({request.key for request in requests})
    for request in requests:
        engine.submit(request)
    return len(requests)


def candidate_seed(run_seed: int, iteration: int, slot: int, prompt_id: str, index: int) -> int:
    """The seed of one candidate: it depends on nothing that order of arrival, batch or engine could change.

    Args:
        slot: the prompt's place in its iteration, so that a prompt that occurs there twice has different candidates.
        index: the candidate's place among those that the slot has drawn for this prompt.
    """
    text = f"{run_seed}/{iteration}/{slot}/{prompt_id}/{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 33
