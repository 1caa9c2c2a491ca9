"""Tables against TRL, and of single parts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.page_cells import at_least, at_most, gibibytes, number
from benchmarks.plots import Bar, bars
from benchmarks.study_page import table

Row = Mapping[str, Any]
TITLES = {"ppo": "PPO", "grpo": "GRPO", "dpo": "DPO", "reward": "reward model", "sft": "SFT"}

STARTUP = {
    "sft": ("SFT, first stage [s]", "sft"),
    "rm": ("reward model, first stage [s]", "rm"),
    "ppo": ("PPO, first stage [s]", "ppo"),
    "later_rm": ("reward model, later stage [s]", "later"),
    "later_ppo": ("PPO, later stage [s]", "later"),
    "ppo_memory_gib": ("memory of PPO [GiB]", "ppo_memory_gib"),
}
"""figure -> its title, and the name of its limit"""


def vs_trl(results: Row) -> str:
    """Ratios to TRL's best layout, with their limits."""
    limits, cells = results["limits"], []
    for name, row in results["rows"].items():
        ratios = row["times_trl"]
        of_each = (limits[name], limits["first_step"], limits["memory"])
        judged = [
            at_most(ratios[key], limit)
            for key, limit in zip(("seconds", "first_step", "memory_gib"), of_each, strict=True)
        ]
        bounds = ", ".join(number(limit) for limit in of_each)
        cells.append([TITLES[name], *judged, bounds, str(len(row["turns"])), f"{row['load']:.1f}"])
    return table(["", "seconds", "first step", "memory", "limits", "turns", "load"], cells)


def vs_trl_plot(results: Row) -> str:
    """Seconds against TRL's."""
    rows = [Bar(TITLES[name], [row["times_trl"]["seconds"]]) for name, row in results["rows"].items()]
    return bars("seconds, as a multiple of TRL's best layout", ["rayalign"], rows, mark=1.0)


def startup(results: Row) -> str:
    """Seconds from the command to the first step of a stage, and the memory of PPO."""
    medians, limits, cells = results["medians"], results["limits"], []
    for key, (title, limit_key) in STARTUP.items():
        value, limit = medians["now"][key], limits.get(limit_key)
        judged = number(value) if limit is None else at_most(value, limit)
        others = [number(medians[side].get(key)) for side in ("before", "trl")]
        cells.append([title, judged, number(limit), *others])
    return table(["", "now", "at most", "before", "TRL"], cells)


def shared_prompt(results: Row) -> str:
    """A prompt for each candidate, or read once."""
    cells = []
    for lengths, row in results["lengths"].items():
        seconds = [number(row["apart_seconds"]), number(row["together_seconds"])]
        cells.append([lengths, str(row["rows_of_a_line"]), *seconds, number(row["speed"])])
    return table(["prompt + answer", "rows of a line", "apart, seconds", "together, seconds", "times as fast"], cells)


def shared_prompt_plot(results: Row) -> str:
    """How many times as fast."""
    rows = [Bar(lengths, [row["speed"]]) for lengths, row in results["lengths"].items()]
    return bars("times as fast with the prompt read once", ["speed"], rows, mark=1.0)


def offline_speed(results: Row) -> str:
    """Tokens a second against a bare loop."""
    cells = []
    for name in ("dpo", "simpo"):
        row = results[name]
        speeds = row["tokens_per_second"]
        ratio = at_least(row["ratio"], results["limit_ratio"])
        cells.append([name, number(speeds["bare"]), number(speeds["ours"]), ratio])
    return table(["", "bare loop, tokens/s", "ours, tokens/s", f"ratio, at least {results['limit_ratio']}"], cells)


def offline_memory(results: Row) -> str:
    """Peaks by the number of rows."""
    cells = []
    for row in results["sizes"]:
        figures = [number(row[key] / 2**20) for key in ("reading_bytes", "loop_bytes", "peak_bytes")]
        cells.append([f"{row['rows']:,}", *figures, number(row["reading_seconds"])])
    return table(["rows", "reading, MiB", "loop, MiB", "process, MiB", "reading, seconds"], cells)


def merge_speed(results: Row) -> str:
    """Seconds against one read and one write of the result."""
    cells = []
    for name, row in results.items():
        if isinstance(row, Mapping) and "merge_seconds" in row:
            ratio = at_most(row["ratio_to_one_read_and_write_of_the_result"], results["limit_ratio"])
            size = gibibytes(row["result_bytes"])
            cells.append([name.replace("_", " "), size, number(row["merge_seconds"]), ratio])
    heading = ["merged", "result, GiB", "seconds", f"of one read and write, at most {results['limit_ratio']}"]
    return table(heading, cells)


def gae_speed(results: Row) -> str:
    """Against two loops over time."""
    limits, cells = results["limits"], []
    for threads in ("1 threads", "2 threads"):
        for padding, row in results[threads].items():
            plain = at_least(row["times_plain_loop"], limits["plain_loop"])
            masked = at_least(row["times_masked_loop"], limits["masked_loop"])
            cells.append([threads[:1], padding, number(row["seconds"]), plain, masked])
    heading = ["threads", "rows", "seconds"]
    heading += [f"times the {name} loop, at least {limits[f'{name}_loop']}" for name in ("plain", "masked")]
    return table(heading, cells)


def prompt_selection(results: Row) -> str:
    """Seconds of choosing prompts."""
    cells = []
    for group in ("metrics", "selections"):
        for name, row in results[group].items():
            cells.append(
                [name.replace("_", " "), *(number(row[key]) for key in ("values", "weights", "drawing", "all"))]
            )
    return table(["measure, or way of drawing", "values", "weights", "drawing", "all"], cells)


def generation(results: Row) -> str:
    """One batch by Hugging Face's `generate` and by both engines."""
    limit, cells = results["limit_ratio"], []
    for row in results["rows"]:
        seconds = [number(statistics.median(row["seconds"][side])) for side in ("hf", "vllm", "local")]
        ratios = [at_most(row[f"{engine}_over_hf"], limit) for engine in ("vllm", "local")]
        cells.append([row["model"], *seconds, *ratios])
    heading = [
        "model",
        "generate [s]",
        "vLLM [s]",
        "local [s]",
        f"vLLM, at most {limit:g}",
        f"local, at most {limit:g}",
    ]
    return table(heading, cells)


def engine_choice(results: Row) -> str:
    """Start and one batch of both engines."""
    cells = []
    for row in results["rows"]:
        sides = (row["vllm"], row["local"])
        starts = [number(side["start_seconds"]) for side in sides]
        batches = [number(side["batch_seconds"]) for side in sides]
        cells.append([row["model"], number(row["parameters"] / 1e6), *starts, *batches])
    heading = ["model", "M parameters", "vLLM starts", "local starts", "batch by vLLM", "batch by local"]
    return table(heading, cells)
