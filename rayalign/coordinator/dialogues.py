"""One candidate from its first turn to its end: what the policy wrote, what its environment replied."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from rayalign.rollout.base import Finished, Request
from rayalign.rollout.environment import Environment, Reply
from rayalign.types import FinishReason, Message, Prompt, Segment, Trajectory

_OPENING = (Segment(0, "template"),)
"""of every trajectory: one object, which is sent once with a whole group"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a dialogue ends that its environment does not end."""

    context: int
    """tokens of the prompt and all turns"""
    turns: int
    """of the policy"""


@dataclass(slots=True, eq=False)
class Dialogue:
    """A candidate while it is made."""

    prompt: Prompt
    trajectory: Trajectory
    """what there is so far, at first the prompt alone"""
    request: Request
    """of the turn that the policy is writing"""
    environment: Environment | None = None
    """made before its first step"""
    turns: int = 0
    """that the policy has written"""

    @classmethod
    def begin(cls, group_id: str, index: int, prompt: Prompt, request: Request) -> Dialogue:
        """A dialogue whose first turn is requested."""
        return cls(prompt, Trajectory(group_id, index, request.prompt_ids, _OPENING, (), "stop"), request)

    def write(self, turn: Finished, text: str) -> None:
        """Append what the policy wrote."""
        assert turn.reason is not None, "a failed turn has nothing to append"
        before = self.trajectory
        start = len(before.token_ids)
        segments = [Segment(start + first, "policy", version) for first, version in turn.version_runs]
        self.turns += 1
        # written out: `replace` takes three times as long, and this is done for every candidate
        self.trajectory = Trajectory(
            group_id=before.group_id,
            index=before.index,
            token_ids=before.token_ids + turn.tokens,
            segments=(*before.segments, *segments),
            logprobs=before.logprobs + turn.logprobs,
            finish_reason=turn.reason,
            text=text,
            turns=before.turns,
            reward=before.reward,
        )

    def reply(self, reply: Reply, limits: Limits) -> Request | None:
        """Append the environment's reply; the request of the next turn, None where the dialogue is at its end."""
        if reply.reward is not None:
            self.trajectory = replace(self.trajectory, reward=(self.trajectory.reward or 0.0) + reply.reward)
        if reply.done or self.trajectory.finish_reason != "stop":
            return None
        start = len(self.trajectory.token_ids)
        reason = self._limit(start + len(reply.token_ids), limits)
        if reason is not None:
            self.trajectory = replace(self.trajectory, finish_reason=reason)
            return None
        answer = Message("assistant", self.trajectory.text)
        self.trajectory = replace(
            self.trajectory,
            token_ids=(*self.trajectory.token_ids, *reply.token_ids),
            segments=(*self.trajectory.segments, Segment(start, "environment")),
            turns=(*self.trajectory.turns, answer, *reply.messages),
        )
        seed = _turn_seed(self.request.seed, self.turns)
        self.request = replace(self.request, prompt_ids=self.trajectory.token_ids, seed=seed)
        return self.request

    def _limit(self, prefix: int, limits: Limits) -> FinishReason | None:
        """Which limit leaves no room for a next turn after so many tokens."""
        if self.turns >= limits.turns:
            return "turns"
        return "length" if prefix >= limits.context else None


def _turn_seed(seed: int, turn: int) -> int:
    """Another seed for each turn, so that a candidate's turns do not draw the same random numbers."""
    digest = hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
