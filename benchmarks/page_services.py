"""Tables of services, and of whole runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.page_cells import gibibytes, number, percent
from benchmarks.study_page import spread, table

Row = Mapping[str, Any]


def annotator_service(results: Row) -> str:
    """What the service bears."""
    batches, overload, job = results["batches"], results["overload"], results["long_job"]
    cells = [
        ["verdicts/s in batches, uncached", number(batches["uncached_verdicts_per_second"])],
        ["verdicts/s in batches, cached", number(batches["cached_verdicts_per_second"])],
    ]
    for proxy in ("default_proxy", "haproxy"):
        row = results[f"singles_{proxy}"]
        name = proxy.replace("_", " ")
        cells.append([f"single requests/s, {name}", number(row["most"]["requests_per_second"])])
        cells.append([f"99th percentile at half of that, {name} [ms]", number(row["half_load_p99_ms"])])
    cells += [
        ["99th percentile before an overload [ms]", number(overload["before"]["p99_ms"])],
        ["99th percentile after it [ms]", number(overload["after"]["p99_ms"])],
        [f"verdicts/s of a job of {job['pairs']:,} pairs", number(job["verdicts_per_second"])],
        ["memory of the service at its end [GiB]", gibibytes(job["service_bytes"]["at_the_end"])],
    ]
    return table(["figure", "value"], cells)


def upstream_faults(results: Row) -> str:
    """Calls through a faulty endpoint."""
    cells = [
        ["verdicts/s", number(results["verdicts_per_second"])],
        ["of what the concurrency allows", percent(results["share"])],
        ["of that without faults", percent(results["share_of_faultless"])],
        ["calls lost", str(results["lost"])],
        ["calls billed twice", str(results["endpoint"]["double_billed"])],
    ]
    return table(["figure", "value"], cells)


def served_profiles(results: Row) -> str:
    """Profiles against one adapter and the base."""
    cells = []
    for name, arm in results["arms"].items():
        cells.append([name.replace("_", " "), number(arm["tokens_per_second"]), number(arm["requests_per_second"])])
    ratios = (results["profiles_against_one_adapter"], results["profiles_against_base"])
    sentence = f"{results['profiles']} profiles: {number(ratios[0])} of one adapter, {number(ratios[1])} of the base."
    return f"{table(['served', 'tokens/s', 'requests/s'], cells)}\n\n{sentence}"


def faulty_rewards(results: Row) -> str:
    """Gold utility after training with a reward that fails."""
    cells = []
    for row in results["rows"]:
        cells.append([f"`{row['faults']}`", spread(row["gold"]), spread(row["gold_less_that_without_faults"])])
    return table(["faults", "gold utility", "less that without faults"], cells)


def quickstart_seeds(results: Row) -> str:
    """Each seed's time and gold utility."""
    models = ("sft", "sft_continued", "ppo", "rrhf")
    cells = []
    for run in results["runs"]:
        gold = {row["name"]: row["mean"] for row in run["results"] if row["metric"] == "gold_utility"}
        means = [number(gold[model]) for model in models]
        cells.append([str(run["seed"]), number(run["seconds"]), number(run["first_improvement_seconds"]), *means])
    heading = ["seed", "seconds", "seconds to the first improvement", *(f"`{model}`" for model in models)]
    return table(heading, cells)


def world_health(results: Row) -> str:
    """What the fine-tuned models write."""
    names = {
        "sft_gold": "gold utility",
        "oracle_gold": "that of the oracle",
        "spread_share": "prompts whose answers differ in gold",
        "distinct_of_16": "distinct answers of 16",
    }
    cells = []
    for key, title in names.items():
        values = [run[key] for run in results["runs"]]
        cells.append([title, number(statistics.mean(values)), *map(number, values)])
    seeds = [f"seed {run['seed']}" for run in results["runs"]]
    return table(["figure", "mean", *seeds], cells)
