"""docs/studies/personalized_soups.md, with its three plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.personalized_wins import criteria_tables, judges_table, matrix_table, profiles_table
from benchmarks.plots import Series, forest, lines
from benchmarks.study_page import DOCS, difference_cell, run_sentence, spread, table

NAME = "personalized_soups"
Row = Mapping[str, Any]

_TITLE = "# Personalised soups in the embedded world"
_INTRODUCTION = """\
One LoRA policy for each of six preferences, merged for each of the eight profiles (Jang 2023, arXiv 2310.11564),
against its rivals. All start from the same model of a million parameters, fine-tuned on prompts with and without
preferences. Gold utility under a profile is known. *Helpfulness* is the gold utility of the same answers to the same
prompts without their profiles. `prompted` is the base on prompts that name the profile, `vanilla` the base
on prompts that name nothing, `traditional` one policy of helpfulness, `multitask` supervised learning on the better
answers, and `pmorl` one policy that was trained on all profiles in the prompt. `psoups` merges a third of each of
three adapters; `psoups_unprompted` has the same merges on prompts that name nothing. Half of the reward of the
adapters and of `pmorl` is helpfulness, by the reward model of `traditional`; the paper's reward is the preferences
alone. *As asked* is the share of answers that meet what the profile wants in words, length and tone."""
_WINS = """\
## Who beats whom

The truth first: how often an answer has more gold utility than that of another method to the same prompt under the same
profile; a draw is half a win. Then two judges beside it: `criterion` weighs what the profile wants and the content, and
`pool` is the noisy pool of annotators."""
_AXES = """\
## Along an axis

Adapters of the two poles of a dimension, merged at weights that sum to 1, on prompts that name nothing. The plot shows
what share of the answers meets the *second* pole of each dimension. The line of the axis itself should rise; the other
two should stay where they are."""
_COST = """\
## Cost

Training costs one policy for each preference, and a profile costs a merge. A policy for each profile costs as many
trainings as there are profiles. The seconds of one policy and of one merge were measured in the run; the lines multiply
them for dimensions of two poles each."""


def write_page(results: Row, criteria: Mapping[str, str], folder: Path = DOCS) -> None:
    """The page and its plots.

    Args:
        results: as `benchmarks.personalized.figures` returns them.
        criteria: metric -> what it is the share of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [row["model"] for row in results["methods"]]
    gains = [row for row in results["methods"] if "psoups_less" in row]
    title = "gold utility of psoups less that of each method"
    (folder / f"{NAME}.svg").write_text(forest(gains, "psoups_less", title))
    (folder / f"{NAME}_axes.svg").write_text(_axes_plot(results["axes"], criteria))
    (folder / f"{NAME}_cost.svg").write_text(_cost_plot(results["cost"]))
    parts = [
        _TITLE,
        _INTRODUCTION,
        _run_sentence(results),
        f"![Gold utility of the soups less that of each method, with intervals]({NAME}.svg)",
        _methods_table(results["methods"]),
        "Gold utility under each profile:",
        _profiles_table(results["profiles"], names),
        _WINS,
        matrix_table(results["wins_by_gold"], names),
        judges_table(results["wins_by_judges"], names),
        "The soups under each profile:",
        profiles_table(results["wins_by_judges"], "psoups"),
        "Each preference by itself, over all profiles that hold it, and helpfulness:",
        *criteria_tables(results["wins_by_criteria"], names),
        _AXES,
        f"![Share of answers that meet each criterion over the weight in the merge]({NAME}_axes.svg)",
        _axes_table(results["axes"], criteria),
        _COST,
        f"![Seconds of training over the number of profiles]({NAME}_cost.svg)",
        _cost_sentence(results["cost"]),
        _cost_table(results["cost"]),
    ]
    text = "\n\n".join(parts)
    (folder / f"{NAME}.md").write_text(f"{text}\n")


def _run_sentence(results: Row) -> str:
    resampled = "prompts, with all profiles of a prompt together"
    return (
        f"`rayalign run {results['job']}`, then `python -m benchmarks.personalized RUN...`. {results['prompts']} "
        f"prompts under all profiles. {run_sentence(results, resampled)}"
    )


def _methods_table(rows: Sequence[Row]) -> str:
    heading = ["method", "gold utility", "helpfulness", "average win rate [%]"]
    heading += ["words as asked", "length as asked", "tone as asked"]
    heading += ["psoups less it", "psoups_unprompted less it"]
    cells = []
    for row in rows:
        rate = row["win_rate_average"]
        line = [f"`{row['model']}`", spread(row["gold_utility"]), spread(row["helpfulness"])]
        line.append("" if rate is None else f"{rate:.1f}")
        line += ["" if share is None else f"{share:.2f}" for share in row["as_asked"].values()]
        line += [difference_cell(row.get(f"{soup}_less")) for soup in ("psoups", "psoups_unprompted")]
        cells.append(line)
    return table(heading, cells)


def _profiles_table(rows: Sequence[Row], models: Sequence[str]) -> str:
    cells = []
    for model in models:
        means = [row["means"].get(model) for row in rows]
        cells.append([f"`{model}`", *("" if mean is None else f"{mean:.3f}" for mean in means)])
    return table(["method", *(row["profile"] for row in rows)], cells)


def _axes_plot(axes: Sequence[Row], criteria: Mapping[str, str]) -> str:
    charts = []
    for axis in axes:
        if axis["axis"] == "base":
            continue
        series = []
        for metric, name in criteria.items():
            shares = [point["shares"][metric] for point in axis["points"]]
            points = [(point["weight"], point["shares"][metric]["mean"]) for point in axis["points"]]
            series.append(Series(name, points, [(share["low"], share["high"]) for share in shares]))
        first, second = axis["poles"]
        charts.append((f"{axis['axis']}: from {first} to {second}", series))
    return lines(charts, "weight of the second pole, up to")


def _axes_table(axes: Sequence[Row], criteria: Mapping[str, str]) -> str:
    cells = []
    for axis in axes:
        for point in axis["points"]:
            name = "base"
            if axis["poles"]:
                first, second = axis["poles"]
                name = f"{first} {1 - point['weight']:.2f}, {second} {point['weight']:.2f}"
            cells.append([name, *(spread(point["shares"][metric]) for metric in criteria)])
    return table(["merge", *criteria.values()], cells)


def _cost_plot(cost: Row) -> str:
    rows = cost["dimensions"]
    soups = Series("a policy for each preference", [(row["profiles"], row["soups_seconds"] / 60) for row in rows])
    apart = Series("one for each profile", [(row["profiles"], row["separate_seconds"] / 60) for row in rows])
    return lines([("minutes of training", [soups, apart])], "profiles, up to")


def _cost_sentence(cost: Row) -> str:
    measured = ", ".join(f"{name} {seconds:.0f}" for name, seconds in cost["policies"].items())
    return (
        f"Measured seconds of training: {measured}; {cost['policy_seconds']:.0f} in the mean. A merge took "
        f"{cost['merge_seconds']:.2f} s, and `pmorl`, which trains on all eight profiles at once, "
        f"{cost['pmorl_seconds']:.0f} s; it trains anew for a further preference."
    )


def _cost_table(cost: Row) -> str:
    cells = []
    for row in cost["dimensions"]:
        minutes = [f"{row[name] / 60:.1f}" for name in ("soups_seconds", "separate_seconds")]
        cells.append([str(row["preferences"]), str(row["profiles"]), *minutes])
    return table(["preferences", "profiles", "minutes, soups", "minutes, a policy for each profile"], cells)
