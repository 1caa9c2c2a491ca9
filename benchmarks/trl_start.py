"""One step of TRL's SFT or reward training, for `benchmarks.startup`; runs with a Python that has TRL.

`python trl_start.py sft|rm MODEL PAIRS`: the model and the pairs of the jobs there, the same batch, one step.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Train one step and print that it has ended."""
    method, model, pairs = sys.argv[1:]
    from datasets import Dataset

    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    common = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": 1,
        "per_device_train_batch_size": 32,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "max_length": 96,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    if method == "sft":
        from trl import SFTConfig, SFTTrainer

        texts = [{"messages": [_message("user", row["prompt"]), _message("assistant", row["chosen"])]} for row in rows]
        trainer = SFTTrainer(model, args=SFTConfig(**common), train_dataset=Dataset.from_list(texts))
    else:
        from trl import RewardConfig, RewardTrainer

        texts = []
        for row in rows:
            sides = {side: [_message("assistant", row[side])] for side in ("chosen", "rejected")}
            texts.append({"prompt": [_message("user", row["prompt"])], **sides})
        trainer = RewardTrainer(model, args=RewardConfig(**common), train_dataset=Dataset.from_list(texts))
    trainer.train()
    print("stepped", flush=True)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    main()
