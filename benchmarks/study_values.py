"""The values of an evaluation's answers over several seeds, and how two models differ in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from rayalign.statistics.intervals import paired_difference
from rayalign.storage.records import read_jsonl

Values = dict[tuple[int, str], dict[str, float]]
"""(seed, prompt) -> model -> value"""


def difference(
    values: Values, model: str, control: str, cluster: Callable[[tuple[int, str]], Hashable] = lambda key: key
) -> dict[str, Any]:
    """The paired difference over all seeds, that of each seed, and whether it is shown.

    Args:
        cluster: of a seed and prompt, what is resampled as a whole; by default each by itself.
    """
    keys = [key for key, row in values.items() if model in row and control in row]
    ours, theirs = [values[key][model] for key in keys], [values[key][control] for key in keys]
    interval = paired_difference(ours, theirs, [cluster(key) for key in keys])
    by_seed = {}
    for seed in sorted({seed for seed, _ in keys}):
        own = [values[key][model] - values[key][control] for key in keys if key[0] == seed]
        by_seed[seed] = sum(own) / len(own)
    same_sign = len({mean > 0 for mean in by_seed.values()}) == 1
    excludes_zero = interval.low > 0 or interval.high < 0
    return {**interval._asdict(), "seeds": by_seed, "shown": same_sign and excludes_zero}


def read_values(stage: str, folders: Mapping[int, Path]) -> Values:
    """The value of every answer of an evaluation."""
    values: Values = {}
    for seed, folder in folders.items():
        for row in read_jsonl(folder / "stages" / stage / "records.jsonl"):
            if row["value"] is not None:
                values.setdefault((seed, row["prompt_id"]), {})[row["model"]] = row["value"]
    return values


def model_names(values: Values) -> list[str]:
    """Every model and baseline, in the order of the job."""
    names: dict[str, None] = {}
    for row in values.values():
        names |= dict.fromkeys(row)
    return list(names)
