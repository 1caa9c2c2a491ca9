"""What the algorithms that learn from pairs share. Shapes: B rows of a batch, N pairs.

The rows of a pair are neighbours, the chosen answer first. A pair whose preference is only a probability p costs the
expected loss over both orders, `p * loss(chosen, rejected) + (1 - p) * loss(rejected, chosen)`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.algorithms.ops import token_tensors, zeroed
from rayalign.types import Batch, LossSum, Metric, Metrics, Minibatch, Outputs, Role, Rollouts

C = TypeVar("C", bound=AlgorithmConfig)
MEASURES = ("margin", "accuracy", "chosen_reward", "rejected_reward", "chosen_logprob", "rejected_logprob")
"""means over pairs that every algorithm of pairs reports"""


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of N pairs: one side of them, or both."""

    logprobs: Tensor
    """sum over the answer's tokens"""
    lengths: Tensor
    """tokens"""
    reference: Tensor
    """the reference's sum; 0 where the algorithm has no reference"""
    probabilities: Tensor
    """that it is better than the other answer of its pair"""
    shares: Tensor
    """of the answers to its prompt that it beats, itself counted half; 0 where the algorithm needs no scores"""

    def every_second(self, first: int) -> Answers:
        """Of rows that are pairs, the chosen answers (first 0) or the rejected ones (first 1)."""
        return Answers(*(getattr(self, field.name)[first::2] for field in fields(self)))

    @property
    def means(self) -> Tensor:
        """Log-prob a token."""
        return self.logprobs / self.lengths

    @property
    def ratios(self) -> Tensor:
        """Log-ratio of policy to reference."""
        return self.logprobs - self.reference


class Pairwise(Algorithm[C]):
    """One loss for each pair; a subclass names it, and what it takes for the reward of an answer."""

    unit = "pair"
    trains = ("policy",)
    has_reference: ClassVar[bool]

    @property
    def roles(self) -> frozenset[Role]:
        """The policy, and the reference where the loss has one."""
        return frozenset({"policy", "reference"} if self.has_reference else {"policy"})

    @property
    def needs(self) -> frozenset[Need]:
        """Pairs with their preference; the reference's log-probs where the loss has them."""
        return frozenset({"preferences", "reference_logprobs"} if self.has_reference else {"preferences"})

    @property
    def metrics(self) -> frozenset[str]:
        """The loss, and what the pairs look like to the policy."""
        return frozenset({"loss/policy"} | {f"preference/{name}" for name in MEASURES})

    @property
    def reads_entropy(self) -> bool:
        """Log-probs are enough."""
        return False

    @abstractmethod
    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """The loss of N pairs whose first answer is the better one for sure."""

    @abstractmethod
    def rewards(self, answers: Answers) -> Tensor:
        """The implicit reward of N answers, whose difference over a pair is its margin."""

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Tokens, preferences and the reference's sums."""
        assert rollouts.preferences_B is not None
        group_B = rollouts.group_B
        assert bool((group_B[0::2] == group_B[1::2]).all()), "a pair is two neighbours"
        tensors = {**token_tensors(rollouts), "preferences_B": rollouts.preferences_B}
        if self.has_reference:
            assert rollouts.reference_logprobs_BT is not None
            tensors["reference_B"] = zeroed(rollouts.reference_logprobs_BT, rollouts.policy_mask_BT).sum(1)
        if "scores" in self.needs:
            assert rollouts.scores_B is not None
            tensors["shares_B"] = rollouts.scores_B
        return Batch(tensors, group_B)

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Pairs."""
        return len(minibatch) / 2

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The sum of the pairs' expected losses."""
        chosen, rejected = _sides(outputs, minibatch)
        straight, swapped = self.pair_loss(chosen, rejected), self.pair_loss(rejected, chosen)
        total = (chosen.probabilities * straight + rejected.probabilities * swapped).sum()
        count = len(minibatch) / 2
        metrics = {"loss/policy": Metric(total.item() / max(count, 1.0), count)}
        return LossSum(total, count, metrics | self._measure(chosen, rejected, count))

    def _measure(self, chosen: Answers, rejected: Answers, count: float) -> Metrics:
        """What the pairs look like to the policy; a margin of 0 is right in half the cases."""
        good, bad = self.rewards(chosen).detach(), self.rewards(rejected).detach()
        margins = good - bad
        accuracies = (margins.sign() + 1) / 2
        values = (margins, accuracies, good, bad, chosen.logprobs.detach(), rejected.logprobs.detach())
        means = [value.sum().item() / max(count, 1.0) for value in values]
        return {f"preference/{name}": Metric(mean, count) for name, mean in zip(MEASURES, means, strict=True)}


def _sides(outputs: Outputs, minibatch: Minibatch) -> tuple[Answers, Answers]:
    assert outputs.logprobs_BT is not None
    mask_BT = minibatch["policy_mask_BT"].bool()
    sums_B = zeroed(outputs.logprobs_BT, mask_BT).sum(1)
    lengths_B = mask_BT.sum(1).clamp(min=1).to(sums_B.dtype)
    zero_B = sums_B.new_zeros(len(sums_B))
    reference_B = minibatch.tensors.get("reference_B", zero_B)
    shares_B = minibatch.tensors.get("shares_B", zero_B)
    probability = minibatch["preferences_B"][0::2]
    probabilities_B = torch.stack([probability, 1 - probability], dim=1).flatten()
    answers = Answers(sums_B, lengths_B, reference_B, probabilities_B, shares_B)
    return answers.every_second(0), answers.every_second(1)
