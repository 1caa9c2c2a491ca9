"""TRL's side of `benchmarks.vs_trl`; runs with a Python that has TRL, in one process or under torchrun.

`python trl_side.py METHOD INPUTS OUTPUT STEPS`: trains so many optimizer steps (iterations, where the model writes its
own answers) from the models and rows of the folder INPUTS, and writes OUTPUT: when each step ended, and the real tokens
of the answers with their prompts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SEQUENCES = 64
"""of an optimizer step, over all processes"""
PROMPTS, CANDIDATES, LONGEST_ANSWER, LONGEST = 64, 4, 48, 96
LEARNING_RATE = 1e-4
MINIBATCHES = PROMPTS * CANDIDATES // SEQUENCES
"""optimizer steps of an iteration"""
WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def read(inputs: Path, name: str) -> list[dict[str, str]]:
    """The rows of a file of the inputs."""
    return [json.loads(line) for line in (inputs / f"{name}.jsonl").read_text().splitlines()]


def message(role: str, content: str) -> list[dict[str, str]]:
    """One turn of a dialogue."""
    return [{"role": role, "content": content}]


def settings(steps: int, sequences: int) -> dict[str, Any]:
    """What all trainers are given: fp32 on a CPU, nothing saved, no reports."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": steps,
        "per_device_train_batch_size": sequences // WORLD,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "ddp_backend": "gloo" if WORLD > 1 else None,
    }


def sft(inputs: Path, steps: int, callbacks: list[Any]) -> Any:
    """Loss on the answers alone."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = []
    for row in read(inputs, "demonstrations"):
        rows.append({"prompt": message("user", row["prompt"]), "completion": message("assistant", row["answer"])})
    arguments = SFTConfig(max_length=LONGEST, **settings(steps, SEQUENCES))
    return SFTTrainer(
        str(inputs / "policy"), args=arguments, train_dataset=Dataset.from_list(rows), callbacks=callbacks
    )


def pairs(inputs: Path) -> Any:
    """Pairs of answers; from a file, since only then do all processes share what TRL computes of them before."""
    from datasets import Dataset

    def dialogue(row: dict[str, str]) -> dict[str, Any]:
        sides = {side: message("assistant", row[side]) for side in ("chosen", "rejected")}
        return {"prompt": message("user", row["prompt"]), **sides}

    return Dataset.from_json(str(inputs / "pairs.jsonl")).map(dialogue)


def reward(inputs: Path, steps: int, callbacks: list[Any]) -> Any:
    """A scalar head on the policy."""
    from trl import RewardConfig, RewardTrainer

    arguments = RewardConfig(max_length=LONGEST, **settings(steps, SEQUENCES // 2))
    return RewardTrainer(str(inputs / "policy"), args=arguments, train_dataset=pairs(inputs), callbacks=callbacks)


def dpo(inputs: Path, steps: int, callbacks: list[Any]) -> Any:
    """The reference's log-probs are computed before the first step, as on the other side."""
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(max_length=LONGEST, precompute_ref_log_probs=True, **settings(steps, SEQUENCES // 2))
    return DPOTrainer(str(inputs / "policy"), args=arguments, train_dataset=pairs(inputs), callbacks=callbacks)


def grpo(inputs: Path, iterations: int, callbacks: list[Any]) -> Any:
    """With a reference; all answers of an iteration are written at once."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = [{"prompt": message("user", row["prompt"])} for row in read(inputs, "prompts")]
    arguments = GRPOConfig(
        num_generations=CANDIDATES,
        max_completion_length=LONGEST_ANSWER,
        steps_per_generation=MINIBATCHES,
        gradient_accumulation_steps=1,
        beta=0.04,
        loss_type="grpo",
        temperature=1.0,
        **settings(iterations * MINIBATCHES, SEQUENCES),
    )
    return GRPOTrainer(
        str(inputs / "policy"),
        reward_funcs=str(inputs / "reward"),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        callbacks=callbacks,
    )


def ppo(inputs: Path, iterations: int, callbacks: list[Any]) -> Any:
    """The batch of a device is the whole rollout batch: so each minibatch is one optimizer step."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, tokenizer = inputs / "policy", AutoTokenizer.from_pretrained(inputs / "policy", padding_side="left")
    rows = []
    for row in read(inputs, "prompts"):
        ids = tokenizer.apply_chat_template(
            message("user", row["prompt"]), add_generation_prompt=True, return_dict=False
        )
        rows += [{"input_ids": ids}] * CANDIDATES
    own = settings(iterations, PROMPTS * CANDIDATES)
    arguments = PPOConfig(
        total_episodes=iterations * PROMPTS * CANDIDATES,
        num_mini_batches=MINIBATCHES,
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=PROMPTS * CANDIDATES // WORLD,
        response_length=LONGEST_ANSWER,
        stop_token="eos",
        temperature=1.0,
        num_sample_generations=0,
        **own,
    )
    scalar, causal = AutoModelForSequenceClassification, AutoModelForCausalLM
    return PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=causal.from_pretrained(policy),
        ref_model=causal.from_pretrained(policy),
        reward_model=scalar.from_pretrained(inputs / "reward", num_labels=1),
        value_model=scalar.from_pretrained(inputs / "reward", num_labels=1),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:1]),
        callbacks=callbacks,
    )


METHODS = {"sft": sft, "reward": reward, "dpo": dpo, "grpo": grpo, "ppo": ppo}


def main() -> None:
    """Train, and write what was seen."""
    method, inputs, output, steps = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    import torch
    import transformers
    import trl

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ends: list[float] = []
    tokens: list[int] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """Notes when each step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    def count(_: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        tokens.append(int(inputs["attention_mask"].sum()) * WORLD)

    trainer = METHODS[method](inputs, steps, [Clock()])
    scorer = getattr(trainer, "reward_model", None) or next(iter(getattr(trainer, "reward_funcs", ())), None)
    if scorer is not None:
        scorer.base_model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    precision = str(next(trainer.model.parameters()).dtype)
    if int(os.environ.get("RANK", "0")) == 0:
        versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
        figures = {"ends": ends, "tokens": tokens, "precision": precision, "versions": versions}
        output.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
