"""A model that is only read: the reference, or the reward."""

from __future__ import annotations

from typing import Literal

import torch

from rayalign.config import LearnerConfig
from rayalign.models.heads import evaluate
from rayalign.models.load import load_head
from rayalign.types import Batch, Outputs


class Frozen:
    """A model in evaluation mode on the first device there is."""

    def __init__(
        self, path: str, head: Literal["causal", "scalar"], config: LearnerConfig, temperature: float = 1.0
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = load_head(path, head, config, temperature=temperature, seed=0, initial="reward")
        self._head = loaded.to(device).requires_grad_(False)
        self._micro_tokens = config.micro_tokens

    @torch.inference_mode()
    def evaluate(self, batch: Batch) -> Outputs:
        """Log-probs and entropies at policy tokens (causal), or values and scores (scalar), on the CPU."""
        return evaluate(self._head, self._head, batch, self._micro_tokens)
