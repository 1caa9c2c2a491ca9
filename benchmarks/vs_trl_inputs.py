"""The models and rows of `benchmarks.vs_trl`, which both sides read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

DEMONSTRATIONS, PAIRS = 6400, 3200
"""rows: more than all steps take, so that no side goes through them twice"""
PRETRAINING, BATCH = 120, 32
"""steps and rows of each, in which the model learns how long answers are"""
CONTEXT = 96


def make_inputs(folder: Path) -> None:
    """A language model that has learnt how long answers are, a reward model of its shape, and rows of each kind."""
    from rayalign.config import DataConfig, LearnerConfig
    from rayalign.data.chat import load_tokenizer
    from rayalign.data.paddock.tokenizer import build_tokenizer
    from rayalign.data.readers import load_examples
    from rayalign.models.load import load_scalar, make_preset

    policy, reward = folder / "policy", folder / "reward"
    make_preset("nano", build_tokenizer(), 0, policy)
    demonstrations = load_examples(DataConfig(split="sft", limit=DEMONSTRATIONS), seed=0, use="demonstrations")
    pretrain(policy, demonstrations)
    load_scalar(str(policy), LearnerConfig(), 0).save_pretrained(reward)
    load_tokenizer(str(policy)).save_pretrained(reward)
    texts = [(example.prompt.messages[-1].content, example.candidates[0].text) for example in demonstrations]
    pairs = []
    for (prompt, answer), (_, other) in pairwise(texts[: PAIRS + 1]):
        pairs.append({"prompt": prompt, "chosen": answer, "rejected": other})
    prompts = [{"prompt": prompt} for prompt in dict.fromkeys(prompt for prompt, _ in texts)]
    rows = {"demonstrations": [{"prompt": p, "answer": a} for p, a in texts], "pairs": pairs, "prompts": prompts}
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def pretrain(folder: Path, examples: Sequence[Any]) -> None:
    """Train the model in the folder on demonstrations until its answers end as theirs do."""
    import torch
    from transformers import AutoModelForCausalLM

    from rayalign.data.chat import load_tokenizer
    from rayalign.data.collate import collate_examples, encode_examples

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    rows = list(encode_examples(load_tokenizer(str(folder)), examples, context=CONTEXT))
    for step in range(PRETRAINING):
        start = step * BATCH % (len(rows) - BATCH)
        batch = collate_examples(rows[start : start + BATCH], 0)
        labels_BT = batch.input_ids_BT.masked_fill(batch.policy_mask_BT == 0, -100)
        model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, labels=labels_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def mean_tokens(inputs: Path) -> dict[str, float]:
    """Mean tokens of a sequence of each kind of rows; of `prompts` without an answer."""
    from rayalign.data.chat import encode_example, load_tokenizer
    from rayalign.types import Message, Prompt

    tokenizer = load_tokenizer(str(inputs / "policy"))
    answers = {"demonstrations": ("answer",), "pairs": ("chosen", "rejected"), "prompts": ("",)}
    means = {}
    for name, keys in answers.items():
        counts = []
        for line in (inputs / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            prompt = Prompt("", (Message("user", row["prompt"]),))
            for key in keys:
                ids, mask = encode_example(tokenizer, prompt, row.get(key, ""))
                counts.append(len(ids) if key else mask.index(True))
        means[name] = statistics.mean(counts)
    return means
