"""Inputs and results of TRL's PPO, which has no place in the `dev` extra beside a newer TRL.

`python tests/algorithms/record_trl_ppo.py`, with a Python that has TRL 1.12, the last version with PPO, writes
trl_ppo.json beside this file. TRL's trainer computes advantages and losses within its loop. So it trains two tiny
models here for two steps, and what its loop hands to `masked_whiten` and `masked_mean` is noted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

PATH = Path(__file__).with_name("trl_ppo.json")
VOCABULARY, END, PAD = 6, 1, 6
"""the policy has no logit for the pad token and so never writes it"""
ROWS, PROMPT, ANSWER, STEPS = 5, 3, 6, 2
SETTINGS = {"kl_coef": 0.3, "gamma": 0.9, "lam": 0.8, "cliprange": 0.2, "cliprange_value": 0.05}
BATCH = ("logprobs", "ref_logprobs", "scores", "values", "rewards", "advantages", "returns", "padding_mask")
"""what the loop has where it whitens advantages"""
STEP = ("new_logprobs", "mb_logprobs", "mb_advantage", "vpred", "mb_values", "mb_return")
"""what the loop has where it averages the policy's loss"""


class Notes:
    """What one training run computed."""

    def __init__(self) -> None:
        self.batch: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []

    def whiten(self, values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        """TRL's whitening; notes the loop's tensors before and after."""
        whitened = masked_whiten(values, mask, shift_mean)
        loop = sys._getframe(1).f_locals
        self.batch = {name: loop[name].tolist() for name in (*BATCH, "padding_mask_p1")}
        self.batch["whitened"] = whitened.masked_fill(~mask, 0).tolist()
        return whitened

    def mean(self, values: torch.Tensor, mask: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        """TRL's mean; where it makes the policy's loss, notes both losses, their inputs and their gradients."""
        mean = masked_mean(values, mask, axis)
        loop = sys._getframe(1).f_locals
        if values is loop.get("pg_loss_max"):
            rows = loop["micro_batch_inds"]
            step = {name: loop[name].tolist() for name in STEP}
            step["padding_mask"] = loop["padding_mask"][rows].tolist()
            step["padding_mask_p1"] = loop["padding_mask_p1"][rows].tolist()
            for name, loss, variable in (
                ("policy", mean, loop["new_logprobs"]),
                ("value", loop["vf_loss"], loop["vpred"]),
            ):
                [gradient] = torch.autograd.grad(loss, variable, retain_graph=True)
                step[f"{name}_loss"], step[f"{name}_gradient"] = loss.item(), gradient.tolist()
            self.steps.append(step)
        return mean


def model(kind: str, seed: int) -> Any:
    """One layer with random weights, in float64."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
        num_labels=1,
        eos_token_id=END,
        pad_token_id=None,
    )
    return getattr(transformers, f"LlamaFor{kind}")(config).double()


def tokenizer() -> Any:
    """Words that are numbers."""
    words = {str(number): number for number in range(VOCABULARY)} | {"pad": PAD}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=str(END), pad_token="pad", padding_side="left"
    )


def run(stop_token: str | None) -> dict[str, Any]:
    """One batch of answers, two optimizer steps on it."""
    notes = Notes()
    ppo_trainer.masked_whiten, ppo_trainer.masked_mean = notes.whiten, notes.mean
    words = range(2, VOCABULARY)
    prompts = [{"input_ids": [words[(row + place) % len(words)] for place in range(PROMPT)]} for row in range(ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=1,
            total_episodes=ROWS,
            num_mini_batches=1,
            num_ppo_epochs=STEPS,
            local_rollout_forward_batch_size=ROWS,
            response_length=ANSWER,
            stop_token=stop_token,
            temperature=1.0,
            num_sample_generations=0,
            learning_rate=0.03,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            use_cpu=True,
            seed=0,
            **SETTINGS,
        )
        PPOTrainer(
            args=arguments,
            processing_class=tokenizer(),
            model=model("CausalLM", 1),
            ref_model=model("CausalLM", 2),
            reward_model=model("SequenceClassification", 3),
            value_model=model("SequenceClassification", 4),
            train_dataset=datasets.Dataset.from_list(prompts),
            eval_dataset=datasets.Dataset.from_list(prompts),
        ).train()
    return {"batch": notes.batch, "steps": notes.steps}


masked_whiten, masked_mean = ppo_trainer.masked_whiten, ppo_trainer.masked_mean

if __name__ == "__main__":
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    recorded = {"versions": versions, "settings": SETTINGS, "stopped": run("eos"), "full": run(None)}
    PATH.write_text(json.dumps(recorded) + "\n")
