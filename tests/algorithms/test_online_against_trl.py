"""SFT and the online losses against TRL's trainers: their own advantages and losses, on the same model and answers.

Known differences:
- GRPO: TRL adds 1e-4 to the deviation of a group, rayalign 1e-6; scores far apart make both the same.
- Dr. GRPO: TRL divides by rows times the longest answer allowed, as `seq-mean-token-sum-norm` does.
- DAPO: TRL divides by the tokens of the generation batch; here that is the minibatch.
- RLOO: TRL's ratio is that of whole answers, as rayalign's, and so is the loss: the mean over answers.
- Online DPO: TRL takes the first answer for the chosen one where two scores are equal; rayalign makes no pair.
- TRL 1.16 has no PPO any more; test_ppo_against_trl.py reads what TRL 1.12 computed. test_ppo_as_loops.py has PPO and
  REINFORCE++ as loops over single tokens.
- Quark and RRHF have no counterpart in TRL; they are hand-checked in test_quark.py and test_rrhf.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts
from tests.algorithms.trl_stubs import VOCABULARY, Bigram, assert_equal, logprobs, table, trainer

pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed")

PROMPT, ANSWERS = 3, 3
LENGTHS = (4, 2, 5, 1, 3, 5)
"""of two groups of three answers"""
SCORES = (30000.0, -20000.0, 70000.0, 10000.0, 50000.0, -40000.0)
"""so far apart that what is added to a deviation has no influence"""
OLD, NOW, REFERENCE = 0, 1, 9
"""tables of the policy that wrote the answers, of the policy that is trained, and of the reference"""


@pytest.fixture
def rows() -> Rollouts:
    """Two groups of three answers."""
    place = torch.arange(PROMPT + max(LENGTHS))[None, :]
    attention_BT = (place < torch.tensor(LENGTHS)[:, None] + PROMPT).long()
    ids_BT = torch.randint(1, VOCABULARY, attention_BT.shape, generator=torch.Generator().manual_seed(5))
    old_BT = logprobs(table(OLD), ids_BT)
    return Rollouts(
        input_ids_BT=ids_BT * attention_BT,
        attention_mask_BT=attention_BT,
        policy_mask_BT=attention_BT * (place >= PROMPT),
        group_B=torch.arange(len(LENGTHS)) // ANSWERS,
        scores_B=torch.tensor(SCORES, dtype=torch.float64),
        behaviour_logprobs_BT=old_BT,
        logprobs_BT=old_BT,
        reference_logprobs_BT=logprobs(table(REFERENCE), ids_BT),
    )


def ours(settings: Mapping[str, Any], rows: Rollouts, table_VV: Tensor) -> Tensor:
    algorithm = load(settings)
    batch = algorithm.prepare(rows)
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs(table_VV, batch["input_ids_BT"])), batch)
    return loss.numerator / loss.normaliser


def read(
    model: Bigram, ids_BT: Tensor, mask_BT: Tensor, length: int, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, None]:
    """Stands for what TRL's trainers read off a model."""
    read_BT = logprobs(model.table_VV, ids_BT)[:, -length:]
    return read_BT, torch.zeros_like(read_BT), torch.zeros(())


def online_trainer(kind: type, rows: Rollouts, **settings: Any) -> Any:
    """A trainer of TRL's whose answers and rewards are given."""
    answers = [rows.input_ids_BT[i, PROMPT : PROMPT + length].tolist() for i, length in enumerate(LENGTHS)]
    prompts = rows.input_ids_BT[:, :PROMPT].tolist()
    steps = {"steps_per_generation": 1, "gradient_accumulation_steps": 3, "per_device_train_batch_size": len(LENGTHS)}
    switches = {"gradient_checkpointing_kwargs": None, "use_bias_correction_kl": False, "delta": None}
    absent = ("environment_factories", "environments", "tools", "pad_to_multiple_of", "reward_clip_range")
    off = ("use_vllm", "mask_truncated_completions", "_entropy_bonus_enabled", "normalize_advantages", "_is_vlm")
    stub = trainer(
        kind,
        args=SimpleNamespace(**steps | switches),
        ref_model=Bigram(table(REFERENCE)),
        num_generations=ANSWERS,
        num_iterations=2,
        reward_weights=torch.ones(1),
        reward_func_names=[],
        reward_funcs=[None],
        multi_objective_aggregation="sum_then_normalize",
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _logs=defaultdict(list),
        _pending_extra_logs={},
        _pending_metrics={},
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        current_gradient_accumulation_steps=1,
        **dict.fromkeys(absent),
        **dict.fromkeys(off, False),
        **settings,
    )
    texts = [str(i) for i in range(len(answers))]
    width = 3 if kind.__name__.startswith("RLOO") else 8
    generated = (prompts, answers, texts) if width == 3 else (prompts, answers, None, texts, None, {}, None, None)
    stub._generate = lambda prompts: generated
    stub._calculate_rewards = lambda *_: rows.scores_B[:, None]
    stub._get_per_token_logps_and_entropies = read
    return stub


def theirs(stub: Any, table_VV: Tensor) -> Tensor:
    """TRL's advantages, then its loss."""
    inputs = stub._generate_and_score_completions([{"prompt": "p"} for _ in LENGTHS])
    loss: Tensor = stub._compute_loss(Bigram(table_VV), inputs)
    return loss


CLIPS = {"clip_low": 0.2, "clip_high": 0.28}
GRPO_LOSSES = (
    ({"kl_coefficient": 0.04, "unbiased_kl": False}, {"loss_type": "grpo", "beta": 0.04, "scale_rewards": "group"}),
    ({"kl_coefficient": 0.0}, {"loss_type": "grpo", "beta": 0.0, "scale_rewards": "group"}),
    (
        {"kl_coefficient": 0.0, "aggregation": "token-mean"},
        {"loss_type": "bnpo", "beta": 0.0, "scale_rewards": "group"},
    ),
    (
        {"kl_coefficient": 0.0, "aggregation": "token-mean"},
        {"loss_type": "dapo", "beta": 0.0, "scale_rewards": "group"},
    ),
    (
        {"kl_coefficient": 0.0, "no_std": True, "aggregation": "seq-mean-token-sum-norm", "max_length": 8},
        {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none", "max_completion_length": 8},
    ),
)


@pytest.mark.parametrize(("settings", "kind"), GRPO_LOSSES, ids=lambda x: x.get("loss_type", "-"))
def test_grpo(rows: Rollouts, settings: Any, kind: Any) -> None:
    from trl import GRPOTrainer

    if kind["scale_rewards"] == "none":
        rows.scores_B = rows.scores_B / 10000
    ranges = {"epsilon_low": 0.2, "epsilon_high": 0.28, "importance_sampling_level": "token"}
    stub = online_trainer(GRPOTrainer, rows, **kind | ranges)
    leaf = table(NOW).requires_grad_()
    assert_equal(ours({"name": "grpo", **CLIPS, **settings}, rows, leaf), theirs(stub, leaf), leaf, tolerance=1e-6)


def test_the_unbiased_kl_of_grpo(rows: Rollouts) -> None:
    from trl import GRPOTrainer

    kind = {"loss_type": "grpo", "beta": 0.3, "scale_rewards": "group", "importance_sampling_level": "token"}
    stub = online_trainer(GRPOTrainer, rows, **kind, epsilon_low=0.2, epsilon_high=0.28)
    stub.args.use_bias_correction_kl = True
    leaf = table(NOW).requires_grad_()
    settings = {"name": "grpo", **CLIPS, "kl_coefficient": 0.3, "unbiased_kl": True}
    assert_equal(ours(settings, rows, leaf), theirs(stub, leaf), leaf, tolerance=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloo(rows: Rollouts, beta: float) -> None:
    from trl import RLOOTrainer

    rows.scores_B = rows.scores_B / 10000
    stub = online_trainer(RLOOTrainer, rows, beta=beta, epsilon_low=0.2, epsilon_high=0.28)
    leaf = table(NOW).requires_grad_()
    settings = {"name": "rloo", **CLIPS, "kl_coefficient": beta}
    assert_equal(ours(settings, rows, leaf), theirs(stub, leaf), leaf)


PAIRS = torch.tensor([0, 2, 3, 4])
"""rows of two groups of two answers, the worse one first in the first"""


def test_online_dpo(rows: Rollouts) -> None:
    from trl.experimental.online_dpo import OnlineDPOTrainer

    leaf = table(NOW).requires_grad_()
    ids_BT, mask_BT = rows.input_ids_BT[PAIRS], rows.policy_mask_BT[PAIRS]
    by_half = torch.tensor([0, 2, 1, 3])  # the first answers of both prompts, then the second ones
    prompt_ids, answers = ids_BT[by_half, :PROMPT], ids_BT[by_half, PROMPT:]
    losses: list[Tensor] = []
    settings = {"missing_eos_penalty": None, "loss_type": "sigmoid", "torch_empty_cache_steps": None, "optim": "adamw"}
    more = {"use_vllm": False, "n_gpu": 1, "gradient_accumulation_steps": 1}
    stub = trainer(
        OnlineDPOTrainer,
        args=SimpleNamespace(**settings | more),
        ref_model=Bigram(table(REFERENCE)),
        eos_token_ids=[0],
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: ["a"] * len(ids)),
        reward_funcs=[None],
        stats=defaultdict(list),
        _beta=[0.3],
        state=SimpleNamespace(global_step=0, epoch=0),
    )
    stub.accelerator.backward = losses.append
    stub._generate = lambda *_: (prompt_ids, prompt_ids > 0, answers, mask_BT[by_half, PROMPT:], None)
    stub._calculate_rewards_from_functions = lambda **_: rows.scores_B[PAIRS][by_half].clone()
    stub._forward = lambda model, *_: logprobs(model.table_VV, ids_BT[by_half])[:, PROMPT:]
    stub.training_step(Bigram(leaf), {"prompt": ["p", "q"]})
    names = ("input_ids_BT", "attention_mask_BT", "policy_mask_BT", "reference_logprobs_BT", "scores_B")
    pairs = Rollouts(group_B=torch.tensor([0, 0, 1, 1]), **{name: getattr(rows, name)[PAIRS] for name in names})
    assert_equal(ours({"name": "online_dpo", "beta": 0.3}, pairs, leaf), losses[0], leaf)


def test_sft(rows: Rollouts) -> None:
    from trl import SFTTrainer

    leaf = table(NOW).requires_grad_()
    stub = trainer(
        SFTTrainer,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False, max_length=None),
        compute_loss_func=None,
        label_smoother=None,
    )
    inputs = {
        "input_ids": rows.input_ids_BT,
        "attention_mask": rows.attention_mask_BT,
        "labels": rows.input_ids_BT.masked_fill(rows.policy_mask_BT == 0, -100),
    }
    assert_equal(ours({"name": "sft"}, rows, leaf), stub.compute_loss(Bigram(leaf), inputs), leaf)
