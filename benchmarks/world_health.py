"""Is the embedded world fit to study? What its fine-tuned model writes, beside the gates that a test holds it to.

The argument is the folder of `quickstart_seeds`: its runs hold the models.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.record import record
from rayalign.config import RolloutConfig, SamplingConfig
from rayalign.coordinator.rendering import Renderer
from rayalign.data.chat import decode_answer
from rayalign.data.paddock import SIZES, demonstrations, gold, prompts
from rayalign.rollout import build
from rayalign.rollout.base import candidate_seed
from rayalign.types import Prompt

PROMPTS, GROUP = 2000, 4
MANY, DRAWS = 150, 16
"""prompts whose answers are told apart, and answers to each"""


def answers(model: str, asked: list[Prompt], seed: int, draws: int) -> list[tuple[str, ...]]:
    """What the model writes to each prompt in so many draws."""
    config = RolloutConfig(context=96, max_sequences=256)
    renderer, engine = Renderer(model, config.context, SamplingConfig()), build("local", model, config)
    keys: dict[str, list[str]] = {}
    for slot, prompt in enumerate(asked):
        seeds = [candidate_seed(seed, 0, slot, prompt.id, index) for index in range(draws)]
        requests = renderer.requests(prompt.id, prompt, seeds)
        keys[prompt.id] = [request.key for request in requests]
        for request in requests:
            engine.submit(request)
    texts: dict[str, str] = {}
    while engine.pending:
        for candidate in engine.step():
            texts[candidate.key] = decode_answer(renderer.tokenizer, candidate.tokens)
    return [tuple(texts[key] for key in keys[prompt.id]) for prompt in asked]


def rates(pairs: Iterable[tuple[Prompt, str]]) -> dict[str, float]:
    """Share of the answers that have each attribute right, among those that it applies to."""
    found: dict[str, list[float]] = defaultdict(list)
    for prompt, text in pairs:
        for name, value in gold.attributes(prompt, text).items():
            found[name].append(value)
    return {name: mean(values) for name, values in sorted(found.items())}


def health(folder: Path, seed: int) -> dict[str, Any]:
    """The figures that the gates are on, for prompts that no stage has seen."""
    asked, model = prompts(seed, "test", PROMPTS), str(folder / "stages" / "sft" / "model")
    written, many = answers(model, asked, seed, GROUP), answers(model, asked[:MANY], seed, DRAWS)
    worth = [[gold.utility(p, text) for text in texts] for p, texts in zip(asked, written, strict=True)]
    return {
        "seed": seed,
        "sft_gold": mean(mean(values) for values in worth),
        "oracle_gold": mean(gold.utility(p, gold.oracle(p)) for p in asked),
        "spread_share": mean(float(len(set(values)) > 1) for values in worth),
        "distinct_of_16": mean(float(len(set(texts))) for texts in many),
        "sft_rates": rates((p, text) for p, texts in zip(asked, written, strict=True) for text in texts),
        "data_rates": rates((e.prompt, e.candidates[0].text) for e in demonstrations(seed, SIZES["sft"])),
    }


def main() -> None:
    """Measure every seed's run."""
    folder = Path(sys.argv[1])
    record("world_health", {"runs": [health(folder / f"seed{seed}", seed) for seed in (0, 1, 2)]})


if __name__ == "__main__":
    main()
