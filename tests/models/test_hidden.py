from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rayalign.models import hidden
from rayalign.models.hidden import (
    SHARES_PROMPTS,
    hidden_states,
    readings,
    shares_prompts,
    token_metrics,
)
from rayalign.models.lines import Block, Line, prompts_of
from rayalign.types import Batch
from tests.models.conftest import make_batch

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "head_dim": 8,
}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
}


def states_and_gradients(
    model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, real_BT: Tensor, prompts_B: Tensor | None = None
) -> list[Tensor]:
    hidden_BTD = hidden_states(model, ids_BT, mask_BT, prompts_B) * real_BT[..., None]
    model.zero_grad()
    (hidden_BTD.sin().sum() / len(ids_BT)).backward()
    gradients = [parameter.grad for parameter in model.base_model.parameters() if parameter.grad is not None]
    return [hidden_BTD.detach(), *gradients]


def blocks_of(read: Iterable[Iterable[Line]]) -> list[Block]:
    return [block for lines in read for line in lines for block in line.blocks]


def groups() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and prompts: three rows of one prompt of 9 tokens, two of one of 6, and one by itself, mixed."""
    torch.manual_seed(2)
    first, second = torch.randint(40, (9,)), torch.randint(40, (6,))
    rows = [
        torch.cat([first, torch.randint(40, (3,))]),
        torch.cat([second, torch.randint(40, (4,))]),
        torch.cat([first, torch.randint(40, (1,))]),
        torch.randint(40, (8,)),
        torch.cat([second, torch.randint(40, (2,))]),
        torch.cat([first, torch.randint(40, (5,))]),
    ]
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids_BT, (torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).long(), torch.tensor([9, 6, 9, 5, 6, 9])


@pytest.mark.parametrize("family", sorted(SHARES_PROMPTS))
def test_a_prompt_read_once_changes_neither_states_nor_gradients(family: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    ids_BT, mask_BT, prompts_B = groups()
    assert shares_prompts(model)
    shared = blocks_of(readings(model, ids_BT, mask_BT.sum(dim=1), prompts_B))
    assert sorted(block.rows for block in shared) == [(0, 2, 5), (1, 4), (3,)]
    together = states_and_gradients(model, ids_BT, mask_BT, mask_BT, prompts_B)
    apart = states_and_gradients(model, ids_BT, mask_BT, mask_BT)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


def test_a_window_or_another_kernel_reads_each_row_by_itself() -> None:
    windowed = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
    eager = LlamaForCausalLM._from_config(LlamaConfig(**SIZES), attn_implementation="eager")
    ids_BT, mask_BT, prompts_B = groups()
    for model in (windowed, eager):
        assert not shares_prompts(model)
        lines = chain.from_iterable(readings(model, ids_BT, mask_BT.sum(dim=1), prompts_B))
        assert all(line.is_plain for line in lines)


def test_the_prompt_ends_before_the_first_token_that_is_read() -> None:
    select_BT = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]])
    mask_BT = torch.ones_like(select_BT)
    assert prompts_of(select_BT, mask_BT).tolist() == [2, 1, 0]


def test_padding_is_of_what_is_read() -> None:
    model = FAMILIES["llama"]()
    ids_BT, mask_BT, prompts_B = groups()
    batch = Batch({"input_ids_BT": ids_BT, "attention_mask_BT": mask_BT}, torch.arange(len(ids_BT)))
    metrics = token_metrics(model, batch, prompts_B)
    # blocks of 18, 12 and 8 tokens, end to end in lines of 18 and 20
    assert metrics["learner/tokens"].value == int(mask_BT.sum())
    padding = metrics["learner/padding"]
    assert (padding.value, padding.weight) == (pytest.approx(1 - 38 / 40), 40.0)


def spread_batch() -> Batch:
    """Rows of 6 to 60 tokens."""
    return make_batch(rows=32, longest=60)


@pytest.mark.parametrize("packs", (False, True))
def test_how_rows_are_read_changes_neither_outputs_nor_gradients(
    folder: str, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr(hidden, "PACKS", frozenset())
    batch, model = spread_batch(), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids_BT, mask_BT = batch["input_ids_BT"], batch["attention_mask_BT"]
    lines = list(chain.from_iterable(readings(model, ids_BT, mask_BT.sum(dim=1), None)))
    assert (len(lines) < len(ids_BT)) == packs
    in_parts = states_and_gradients(model, ids_BT, mask_BT, mask_BT)
    as_whole = states_and_gradients(model, ids_BT, torch.ones_like(mask_BT), mask_BT)  # one bucket
    torch.testing.assert_close(in_parts, as_whole, atol=1e-5, rtol=1e-5)


def test_padding_is_a_twentieth_of_what_is_read(folder: str) -> None:
    batch = spread_batch()
    metrics = token_metrics(AutoModelForCausalLM.from_pretrained(folder), batch, None)
    tokens = int(batch["attention_mask_BT"].sum())
    assert metrics["learner/tokens"].value == tokens
    share = metrics["learner/padding"]
    assert 0.0 < share.value < 0.05
    assert share.weight * (1 - share.value) == pytest.approx(tokens)
