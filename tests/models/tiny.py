"""A model of some dozen float64 numbers, and rollouts for any algorithm, so that gradients compare exactly.

Shapes: B sequences, T tokens, V vocabulary, D width. The last rows of a batch have fewer tokens than the first ones.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rayalign.algorithms.base import Algorithm
from rayalign.types import Batch, Outputs, Rollouts

VOCABULARY, WIDTH, PROMPT, LONGEST, GROUPS = 11, 3, 2, 6, 5
REWARD_TOKENS = (7, 8, 9, 10)
"""ids; prompts begin with the first"""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Tiny:
    """Each state is made of the mean of the tokens so far; it gives the next token's logits and a value."""

    def __init__(self, seed: int = 0) -> None:
        shapes = ((VOCABULARY, WIDTH), (WIDTH, WIDTH), (WIDTH, VOCABULARY), (WIDTH, 1))
        self.weights = [random(*shape, seed=seed + index).requires_grad_() for index, shape in enumerate(shapes)]

    def outputs(self, batch: Batch | Rollouts, reference: Tiny | None = None) -> Outputs:
        """All that a Learner can compute, of padding too; with a reference also the exact KL to it."""
        ids_BT = batch.tensors["input_ids_BT"] if isinstance(batch, Batch) else batch.input_ids_BT
        mask_BT = batch.tensors["attention_mask_BT"] if isinstance(batch, Batch) else batch.attention_mask_BT
        states_BTD = self._states(ids_BT)
        ours_BTV = (states_BTD @ self.weights[2]).log_softmax(dim=-1)
        after_BT = (states_BTD @ self.weights[3])[..., 0]
        kl_BT = None
        if reference is not None:
            theirs_BTV = (reference._states(ids_BT) @ reference.weights[2]).log_softmax(dim=-1).detach()
            kl_BT = _shifted((ours_BTV.exp() * (ours_BTV - theirs_BTV)).sum(dim=-1))
        return Outputs(
            logprobs_BT=_shifted(ours_BTV[:, :-1].gather(2, ids_BT[:, 1:, None])[..., 0], cut=False),
            entropy_BT=_shifted(-(ours_BTV.exp() * ours_BTV).sum(dim=-1)),
            values_BT=_shifted(after_BT),
            scores_B=after_BT.gather(1, mask_BT.sum(dim=1, keepdim=True) - 1)[:, 0],
            kl_BT=kl_BT,
        )

    def _states(self, ids_BT: Tensor) -> Tensor:
        sums_BTD = self.weights[0][ids_BT].cumsum(dim=1)
        return torch.tanh(sums_BTD / torch.arange(1, ids_BT.shape[1] + 1)[:, None] @ self.weights[1])


def _shifted(after_BT: Tensor, *, cut: bool = True) -> Tensor:
    """What is known after each token, at the token that follows."""
    return pad(after_BT[:, :-1] if cut else after_BT, (1, 0))


def make_rollouts(algorithm: Algorithm[Any], seed: int) -> Rollouts:
    """Groups with all that the algorithm can ask for: one answer is empty, one has a foreign token, one group ties."""
    generator = torch.Generator().manual_seed(seed)
    pairs = bool(algorithm.needs & {"preferences", "mismatched"})
    fewest = algorithm.fewest_candidates
    sizes = [2] * GROUPS if pairs else torch.randint(fewest, fewest + 3, (GROUPS,), generator=generator).tolist()
    group_B = torch.repeat_interleave(torch.randperm(GROUPS, generator=generator), torch.tensor(sizes))
    rows = len(group_B)
    lengths_B = torch.randint(1, LONGEST + 1, (rows,), generator=generator)
    lengths_B[0], lengths_B[1] = LONGEST, 0
    place_T = torch.arange(PROMPT + LONGEST)
    attention_BT = (place_T < lengths_B[:, None] + PROMPT).long()
    mask_BT = attention_BT * (place_T >= PROMPT)
    mask_BT[0, PROMPT + 2] = 0
    ids_BT = torch.randint(0, REWARD_TOKENS[0], attention_BT.shape, generator=generator)
    ids_BT[:, 0] = REWARD_TOKENS[0]
    rollouts = Rollouts(ids_BT, attention_BT, mask_BT, group_B, reward_tokens=REWARD_TOKENS)
    policy, reference = Tiny(0).outputs(rollouts), Tiny(50).outputs(rollouts)
    logprobs_BT, values_BT = policy.logprobs_BT.detach(), policy.values_BT.detach()
    noise_BT = 0.3 * random(*attention_BT.shape, seed=seed)
    chances_N = torch.tensor([1.0, 0.75, 0.0, 0.5], dtype=torch.float64)
    desirable_B = chances_N[torch.arange(rows) % 4]
    if "mismatched" in algorithm.needs:
        desirable_B = desirable_B[torch.arange(rows) // 2].masked_fill(torch.arange(rows) % 2 == 1, torch.nan)
    return replace(
        rollouts,
        scores_B=torch.sigmoid(random(rows, seed=seed + 1)).where(group_B > 0, 0.5),
        preferences_B=chances_N[torch.arange(rows) // 2 % 4],
        desirable_B=desirable_B,
        ended_B=torch.arange(rows) % 3,
        behaviour_logprobs_BT=logprobs_BT + 2 * noise_BT,
        logprobs_BT=logprobs_BT + noise_BT,
        reference_logprobs_BT=reference.logprobs_BT.detach(),
        values_BT=values_BT + noise_BT,
        staleness_B=torch.arange(rows) % 2,
    )


def padded(rollouts: Rollouts, columns: int) -> Rollouts:
    """The rollouts with more padding, which holds other tokens and NaN."""

    def wider(name: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return pad(tensor, (0, columns), value=torch.nan)
        return pad(tensor, (0, columns), value=3 if name == "input_ids_BT" else 0)

    names = [f.name for f in fields(rollouts) if f.name.endswith("_BT")]
    return replace(rollouts, **{name: wider(name, getattr(rollouts, name)) for name in names})


def reordered(rollouts: Rollouts, rows_B: Tensor) -> Rollouts:
    """The rollouts in another order."""
    names = [f.name for f in fields(rollouts) if f.name.endswith(("_BT", "_B"))]
    return replace(rollouts, **{name: getattr(rollouts, name)[rows_B] for name in names})
