"""What is read off a model: log-probs of its tokens, or one number for each token. Logits never leave this file.

Both heads are modules, so that under DeepSpeed everything passes through the engine's forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rayalign.errors import InputError
from rayalign.models.batching import micro_rows, trim
from rayalign.models.hidden import hidden_states
from rayalign.models.lines import prompts_of
from rayalign.types import Batch, Outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rayalign.models.exact_kl import Reference

HeadKind = Literal["causal", "scalar", "pairwise"]
"""log-probs of tokens; a number for each token; the same of a model that reads a prompt with two answers"""
CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 27}
"""logits that exist at a time: 64 MiB in fp32 on a CPU; thin matrix products leave a GPU idle, so 512 MiB there"""

EntropyUse = Literal["gradient", "value", "none"]
"""of the entropies; without their gradient no second softmax is kept for the backward pass"""


class OutputLayer(nn.Module):
    """A model's output embedding that can also return log-probs, computed chunk by chunk within one call.

    Under ZeRO-3 each call gathers the weight on all ranks at once. The ranks have different numbers of tokens and so of
    chunks: a call for each chunk would leave a rank waiting for partners that never come.
    """

    def __init__(self, linear: nn.Linear, chunk_logits: int | None, softcap: float | None) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.softcap = softcap
        self.entropy: EntropyUse = "gradient"
        self.vocabulary = linear.out_features  # the weight itself may lie in parts
        self._chunk_logits = chunk_logits

    def forward(
        self,
        hidden_ND: Tensor,
        tokens_N: Tensor | None = None,
        temperature: float = 1.0,
        reference: Reference | None = None,
        reference_ND: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Plain logits; or, for chosen tokens, the log-prob of each and the entropy of its distribution [nats].

        With a reference and its hidden states also the KL of that distribution to the reference's [nats].
        """
        if tokens_N is None:
            return nn.functional.linear(hidden_ND, self.weight, self.bias)
        chunk = self._chunk(hidden_ND.device)
        if len(tokens_N) <= chunk:
            return self._read(hidden_ND, tokens_N, temperature, reference, reference_ND)
        parts: list[tuple[Tensor, ...]] = []
        for start in range(0, len(tokens_N), chunk):
            part = slice(start, start + chunk)
            theirs_ND = None if reference_ND is None else reference_ND[part]
            inputs = hidden_ND[part], tokens_N[part], temperature, reference, theirs_ND
            parts.append(checkpoint(self._read, *inputs, use_reentrant=False))
        return tuple(torch.cat(readings) for readings in zip(*parts, strict=True))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits in fp32, as the model itself would compute them."""
        logits_NV = nn.functional.linear(hidden_ND, self.weight, self.bias).float()
        if self.softcap is None:
            return logits_NV
        return self.softcap * torch.tanh(logits_NV / self.softcap)

    def _read(
        self,
        hidden_ND: Tensor,
        tokens_N: Tensor,
        temperature: float,
        reference: Reference | None,
        reference_ND: Tensor | None,
    ) -> tuple[Tensor, ...]:
        logits_NV = self.logits(hidden_ND) / temperature
        normaliser_N = logits_NV.logsumexp(dim=-1)
        logprobs_N = logits_NV.gather(1, tokens_N[:, None])[:, 0] - normaliser_N
        with torch.set_grad_enabled(self.entropy == "gradient" and torch.is_grad_enabled()):
            entropy_N = self._entropy(logits_NV, normaliser_N)
        if reference is None or reference_ND is None:
            return logprobs_N, entropy_N
        ours_NV = logits_NV - normaliser_N[:, None]
        theirs_NV = (reference.logits(reference_ND) / temperature).log_softmax(dim=-1)
        return logprobs_N, entropy_N, (ours_NV.exp() * (ours_NV - theirs_NV)).sum(dim=-1)

    def _entropy(self, logits_NV: Tensor, normaliser_N: Tensor) -> Tensor:
        if self.entropy == "none":
            return torch.zeros_like(normaliser_N)
        return normaliser_N - (logits_NV.softmax(dim=-1) * logits_NV).sum(dim=-1)

    def _chunk(self, device: torch.device) -> int:
        """Tokens whose logits exist at a time."""
        logits = self._chunk_logits or CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"])
        return max(1, logits // self.vocabulary)


class TokenLogprobs(nn.Module):
    """Log-probs and entropies of a causal model at chosen tokens."""

    model: PreTrainedModel

    def __init__(self, model: PreTrainedModel, temperature: float = 1.0, chunk_logits: int | None = None) -> None:
        super().__init__()
        assert temperature > 0.0, "the greedy distribution has no gradient"
        self.model = model
        self.temperature = temperature
        self.reference: Reference | None = None
        """what the exact KL is measured against"""
        softcap: float | None = model.config.get_text_config().to_dict().get("final_logit_softcapping")
        # It takes the place of the model's own layer, so that weights keep their names.
        model.set_output_embeddings(OutputLayer(model.get_output_embeddings(), chunk_logits, softcap))

    @property
    def output(self) -> OutputLayer:
        """The layer that turns hidden states into log-probs."""
        layer: OutputLayer = self.model.get_output_embeddings()
        return layer

    def forward(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor, select_BT: Tensor, temperature: float | None = None
    ) -> tuple[Tensor, ...]:
        """Log-prob of token t given the tokens before it, and that distribution's entropy [nats]; else 0.

        In training, with a reference, also its KL to the reference's.
        """
        prompts_B = prompts_of(select_BT, attention_mask_BT)
        hidden_BTD = hidden_states(self.model, input_ids_BT, attention_mask_BT, prompts_B)
        select_BT = select_BT.bool()
        select_BT = torch.cat([torch.zeros_like(select_BT[:, :1]), select_BT[:, 1:]], dim=1)
        rows_N, columns_N = select_BT.nonzero(as_tuple=True)
        hidden_ND, tokens_N = hidden_BTD[rows_N, columns_N - 1], input_ids_BT[rows_N, columns_N]
        reference, reference_ND = self.reference if self.training else None, None
        if reference is not None:
            reference_ND = reference.hidden(input_ids_BT, attention_mask_BT, prompts_B)[rows_N, columns_N - 1]
        readings = self.output(hidden_ND, tokens_N, temperature or self.temperature, reference, reference_ND)
        blank_BT = torch.zeros_like(input_ids_BT, dtype=torch.float32)
        return tuple(blank_BT.index_put((rows_N, columns_N), reading_N) for reading_N in readings)

    @torch.no_grad()
    def verify(self, name: str) -> None:
        """Compare with the model's own logits.

        Raises:
            InputError: the model does something to its logits that this head does not know.
        """
        ids_BT = torch.arange(4, device=self.output.weight.device)[None] % self.output.vocabulary
        own_BTV = self.model(input_ids=ids_BT, use_cache=False).logits.float()
        own_N = own_BTV[0, :-1].log_softmax(dim=-1).gather(1, ids_BT[0, 1:, None])[:, 0]
        hidden_BTD = hidden_states(self.model, ids_BT, torch.ones_like(ids_BT))
        read_N, *_ = self.output(hidden_BTD[0, :-1], ids_BT[0, 1:])
        if not torch.allclose(own_N, read_N, atol=1e-3):
            raise InputError(f"model {name}: it scales its logits in a way that is not supported; choose another model")


class TokenValues(nn.Module):
    """One number for each token, of a model with a scalar head named `score`."""

    model: PreTrainedModel

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, select_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the state before each token (0 before the first and at padding), scores at the last real token."""
        prompts_B = prompts_of(select_BT, attention_mask_BT)
        hidden_BTD = hidden_states(self.model, input_ids_BT, attention_mask_BT, prompts_B)
        head = self.model.score
        after_BT = head(hidden_BTD.to(head.weight.dtype)).float()[..., 0]
        mask_BT = attention_mask_BT.bool()
        known_BT = mask_BT[:, 1:] & mask_BT[:, :-1]
        before_BT = after_BT[:, :-1].where(known_BT, 0.0)
        values_BT = nn.functional.pad(before_BT, (1, 0))
        last_B = (torch.arange(mask_BT.shape[1], device=mask_BT.device) * mask_BT).argmax(dim=1)
        return values_BT, after_BT.gather(1, last_B[:, None])[:, 0]


Head = TokenLogprobs | TokenValues


def as_outputs(head: Head, first: Tensor, second: Tensor, kl: Tensor | None = None) -> Outputs:
    """What a head's forward returned, by name."""
    if isinstance(head, TokenLogprobs):
        entropy_BT = None if head.output.entropy == "none" else second
        return Outputs(logprobs_BT=first, entropy_BT=entropy_BT, kl_BT=kl)
    return Outputs(values_BT=first, scores_B=second)


def read(module: nn.Module, batch: Batch, **settings: float) -> tuple[Tensor, ...]:
    """The forward pass of a head, or of the engine around one; settings are the head's own, such as a temperature."""
    return module(batch["input_ids_BT"], batch["attention_mask_BT"], batch["policy_mask_BT"], **settings)


def evaluate(head: Head, module: nn.Module, batch: Batch, token_budget: int, rounds: int = 0) -> Outputs:
    """The head's outputs for all rows, in micro-batches, on the CPU; `module` is the head or the engine around it.

    `rounds`: at least so many forward passes (the ranks of ZeRO-3 must all make the same number).
    """
    device = next(head.parameters()).device
    first_BT = torch.zeros_like(batch["input_ids_BT"], dtype=torch.float32, device="cpu")
    second = first_BT.clone() if isinstance(head, TokenLogprobs) else first_BT.new_zeros(len(batch))
    micros = micro_rows(batch, token_budget)
    for rows_N in micros:
        micro = batch.rows(rows_N)
        columns = micro["attention_mask_BT"].any(dim=0).nonzero().flatten()
        first_NT, second_part = read(module, to_device(trim(micro), device))
        first_BT[rows_N[:, None], columns] = first_NT.cpu()
        place = (rows_N[:, None], columns) if second_part.dim() == 2 else rows_N
        second[place] = second_part.cpu()
    for _ in range(rounds - len(micros)):
        read(module, to_device(placeholder(), device))
    return as_outputs(head, first_BT, second)


def placeholder() -> Batch:
    """A row for a rank that has none left but must take part."""
    ones_BT = torch.ones(1, 2, dtype=torch.long)
    tensors = {"input_ids_BT": 0 * ones_BT, "attention_mask_BT": ones_BT, "policy_mask_BT": ones_BT}
    return Batch(tensors, torch.zeros(1, dtype=torch.long))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return Batch({name: x.to(device, non_blocking=True) for name, x in batch.tensors.items()}, batch.unit_B)
