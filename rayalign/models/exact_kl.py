"""The reference beside the policy in one process, for the exact KL over the vocabulary: logits leave no process."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rayalign.config import LearnerConfig
from rayalign.models.heads import TokenLogprobs
from rayalign.models.hidden import hidden_states
from rayalign.models.load import load_head
from rayalign.models.lora import adapter_off


class Reference(Protocol):
    """What the policy's head asks of the reference; no torch module, so that no optimizer sees its weights."""

    def hidden(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, prompts_B: Tensor) -> Tensor:
        """Last hidden states [B, T, hidden]."""

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of hidden states [N, V], in fp32."""


class FrozenReference:
    """A model of its own."""

    def __init__(self, head: TokenLogprobs, device: torch.device) -> None:
        self._head = head.to(device).requires_grad_(False)

    @torch.no_grad()
    def hidden(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, prompts_B: Tensor) -> Tensor:
        """Last hidden states."""
        return hidden_states(self._head.model, input_ids_BT, attention_mask_BT, prompts_B)

    @torch.no_grad()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of hidden states."""
        return self._head.output.logits(hidden_ND)


class WithoutAdapter:
    """The policy itself with its adapter off."""

    def __init__(self, head: TokenLogprobs) -> None:
        self._head = head

    @torch.no_grad()
    def hidden(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, prompts_B: Tensor) -> Tensor:
        """Last hidden states."""
        with adapter_off(self._head.model):
            return hidden_states(self._head.model, input_ids_BT, attention_mask_BT, prompts_B)

    @torch.no_grad()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of hidden states."""
        return self._head.output.logits(hidden_ND)


def reference_of(policy: TokenLogprobs, path: str | None, config: LearnerConfig, device: torch.device) -> Reference:
    """The frozen model of a folder or hub name; None: the policy itself without its adapter."""
    if path is None:
        return WithoutAdapter(policy)
    head = load_head(path, "causal", config, temperature=1.0, seed=0, initial="reward")
    assert isinstance(head, TokenLogprobs)
    return FrozenReference(head, device)
