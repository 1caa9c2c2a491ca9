"""Last hidden states of a model for rows of tokens, in as few positions as the rows allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rayalign.models.lines import Block, lay_out, plan_blocks, rows_of
from rayalign.models.metrics import PADDING, TOKENS
from rayalign.models.packing import Reading, in_one_reading, in_readings
from rayalign.types import Batch, Metric, Metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

START = {"cpu": 64, "cuda": 4096}
"""tokens whose reading takes about as long as to start one; with fewer the device is hardly faster"""
PACKS = frozenset({"cpu"})
"""devices on which a mask slows attention little; others read a row by itself in a kernel without one"""
SHARES_PROMPTS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""models that take a mask of positions and count positions as they are told; tested one by one"""


def hidden_states(
    model: PreTrainedModel, input_ids_BT: Tensor, attention_mask_BT: Tensor, prompts_B: Tensor | None = None
) -> Tensor:
    """Last hidden states; what stands behind a row's end has no meaning.

    Args:
        prompts_B: tokens of each row's prompt. A prompt of several rows is read once where that costs less.
    """
    if not bool(attention_mask_BT[:, 0].all()):
        return _left_padded(model, input_ids_BT, attention_mask_BT)
    lengths_B = attention_mask_BT.sum(dim=1)
    parts: list[Tensor] = []
    order: list[int] = []
    for reading in readings(model, input_ids_BT, lengths_B, prompts_B):
        rows = rows_of(reading)
        parts.append(_read(model, reading, rows, input_ids_BT, lengths_B))
        order += rows
    return torch.cat(parts).index_select(0, torch.tensor(order, device=input_ids_BT.device).argsort())


def readings(
    model: PreTrainedModel, input_ids_BT: Tensor, lengths_B: Tensor, prompts_B: Tensor | None
) -> list[Reading]:
    """The lines that a model reads together.

    Under ZeRO-3 it reads all at once: each reading gathers the weights on all ranks, which must make equally many.
    """
    hidden = model.config.get_text_config().hidden_size
    takes_masks, device = shares_prompts(model), input_ids_BT.device.type
    if prompts_B is None or not takes_masks:
        blocks = [Block((row,), length, length) for row, length in enumerate(lengths_B.tolist())]
    else:
        blocks = plan_blocks(input_ids_BT, lengths_B, prompts_B, hidden)
    packs = takes_masks and device in PACKS
    if hasattr(next(model.parameters()), "ds_id"):
        return [in_one_reading(blocks, hidden, packs=packs)]
    return in_readings(blocks, hidden, START.get(device, START["cuda"]), packs=packs)


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether a model can read several rows behind one prompt: full attention, in torch's own kernel."""
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None) or ()
    is_full = all(kind == "full_attention" for kind in layer_types)
    if not layer_types:
        is_full = getattr(config, "sliding_window", None) is None
    return config.model_type in SHARES_PROMPTS and is_full and model.config._attn_implementation == "sdpa"


def token_metrics(model: PreTrainedModel, batch: Batch, prompts_B: Tensor | None) -> Metrics:
    """Tokens of a micro-batch, and the share of padding in what the model reads of it."""
    lengths_B = batch["attention_mask_BT"].sum(dim=1)
    read = distinct = 0
    for lines in readings(model, batch["input_ids_BT"], lengths_B, prompts_B):
        lengths = [line.length for line in lines]
        read += len(lines) * max(lengths)
        distinct += sum(lengths)
    padding = Metric(1 - distinct / read, float(read))
    return {TOKENS: Metric(float(lengths_B.sum()), reduction="sum"), PADDING: padding}


def _read(model: PreTrainedModel, lines: Reading, rows: list[int], input_ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Hidden states of the rows of one reading, in the order of its lines."""
    width = int(lengths_B[rows].max())
    if all(line.is_plain for line in lines):
        # Causal attention never sees padding on the right, so no mask is needed.
        hidden_NTD = model.base_model(input_ids=input_ids_BT[rows, :width], use_cache=False).last_hidden_state
    else:
        layout = lay_out(lines, input_ids_BT, lengths_B)
        hidden_LSD = model.base_model(
            input_ids=layout.input_ids_LS,
            attention_mask=layout.mask_L1SS,
            position_ids=layout.positions_LS,
            use_cache=False,
        ).last_hidden_state
        hidden_NTD = hidden_LSD.flatten(0, 1)[layout.place_BT]
    padded: Tensor = nn.functional.pad(hidden_NTD, (0, 0, 0, input_ids_BT.shape[1] - width))
    return padded


def _left_padded(model: PreTrainedModel, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
    positions_BT = (attention_mask_BT.long().cumsum(dim=1) - 1).clamp(min=0)
    hidden_BTD: Tensor = model.base_model(
        input_ids=input_ids_BT, attention_mask=attention_mask_BT, position_ids=positions_BT, use_cache=False
    ).last_hidden_state
    return hidden_BTD
