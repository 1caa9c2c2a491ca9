"""A study as a page of docs/studies, with its tables and one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.plots import forest
from benchmarks.sampling_settings import findings, maxima_plot, table_rows
from benchmarks.study_settings import HEADING
from rayalign.storage.report_best_of import BY_CONSTRUCTION

DOCS = Path(__file__).parents[1] / "docs" / "studies"
Row = Mapping[str, Any]
Published = Mapping[str, tuple[float | None, float | None]]


def write_page(
    name: str, title: str, introduction: str, results: Row, published: Published, folder: Path = DOCS
) -> None:
    """docs/studies/NAME.md and NAME.svg.

    Args:
        results: as `benchmarks.studies.figures` returns them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = results["models"]
    controls = _controls(rows)
    measure = results["measure"]
    plot_title = f"{measure} less that of {controls[0]}"
    (folder / f"{name}.svg").write_text(forest(rows, f"over_{controls[0]}", plot_title))
    parts = [
        f"# {title}",
        introduction,
        f"`python -m benchmarks.studies {name}` runs `{results['job']}` and writes this page. {run_sentence(results)}",
        _doubts(results["doubts"]),
        _sampling_section(name, results["sampling"], folder),
        f"![Differences in {measure} to {controls[0]}, with intervals]({name}.svg)",
        _value_table(rows, controls, measure),
        _judge_table(rows, published),
        _correlation_table(results["rank_correlations"]),
        departures(rows, published),
        _agreement_table(results["judge_correlations"]),
        _best_of_n_table(results["best_of_n"]),
        _best_of_n_rates(results["best_of_n_rates"]),
        settings_section(results["settings"]),
    ]
    text = "\n\n".join(part for part in parts if part)
    (folder / f"{name}.md").write_text(f"{text}\n")


def _controls(rows: Sequence[Row]) -> list[str]:
    """The models that others are compared with, in order."""
    names: dict[str, None] = {}
    for row in rows:
        names |= {key.removeprefix("over_"): None for key in row if key.startswith("over_")}
    return sorted(names, key=lambda name: name != "sft")


def run_sentence(results: Row, resampled: str = "prompts within seeds") -> str:
    """What the runs of a study took, and how its intervals and bold figures are meant."""
    seeds = ", ".join(str(seed) for seed in results["seeds"])
    minutes = " and ".join(f"{seconds / 60:.0f}" for seconds in results["seconds_of_each_seed"].values())
    memory = max(results["peak_memory_bytes"].values()) / 2**30
    plural = "s" if len(results["seeds"]) > 1 else ""
    return (
        f"Seed{plural} {seeds}; {minutes} minutes on two cores; at most {memory:.1f} GiB of memory. Intervals cover "
        f"95%: bootstraps over {resampled}. A difference in **bold** excludes 0 and has the same sign in every seed."
    )


def _doubts(sentences: Sequence[str]) -> str:
    """What speaks against the figures that follow, before any of them; empty where nothing does."""
    if not sentences:
        return ""
    return "\n".join(["The reward is not to be trusted:", "", *(f"- {sentence}" for sentence in sentences)])


def _value_table(rows: Sequence[Row], controls: Sequence[str], measure: str) -> str:
    heading = ["model", measure]
    for control in controls:
        heading += [f"less that of `{control}`", "each seed"]
    has_perplexity = any(row["perplexity"] is not None for row in rows)
    heading += ["perplexity"] if has_perplexity else []
    heading.append("seconds of its stage")
    lines = []
    for row in rows:
        cells = [f"`{row['model']}`", spread(row["value"])]
        for control in controls:
            difference = row.get(f"over_{control}")
            cells += [difference_cell(difference), _seeds(difference)]
        if has_perplexity:
            cells.append("" if row["perplexity"] is None else f"{row['perplexity']:.1f}")
        cells.append("" if row["seconds"] is None else f"{row['seconds']:.0f}")
        lines.append(cells)
    return table(heading, lines)


def _judge_table(rows: Sequence[Row], published: Published) -> str:
    """Win rates by each judge beside the published columns; empty without a judge."""
    judges = {name: None for row in rows for name in row["win_rates"]}
    if not judges:
        return ""
    heading = ["win rate [%]", *(name.replace("_against_", " against ") for name in judges)]
    if published:
        heading += ["published, simulated", "published, human"]
    lines = []
    for row in rows:
        if not row["win_rates"] and row["model"] not in published:
            continue
        cells = [f"`{row['model']}`"]
        for name in judges:
            cells.append(f"{row['win_rates'][name]:.1f}" if name in row["win_rates"] else "")
        if published:
            pair = published.get(row["model"], (None, None))
            cells += ["" if value is None else f"{value:.1f}" for value in pair]
        lines.append(cells)
    return table(heading, lines)


def _correlation_table(correlations: Mapping[str, Mapping[str, float]]) -> str:
    if not correlations:
        return ""
    columns = {column: None for row in correlations.values() for column in row}
    lines = [[judge, *(f"{row[column]:.2f}" for column in columns)] for judge, row in correlations.items()]
    sentence = (
        "Spearman's correlation of the methods' order here with the published win rates against text-davinci-003:"
    )
    return f"{sentence}\n\n{table(['order by', *columns], lines)}"


def departures(rows: Sequence[Row], published: Published) -> str:
    """Where the study and the published simulated column disagree: in the order, and about what beats `sft`.

    Empty without a published column, and where nothing differs.
    """
    utilities = {row["model"]: row["value"]["mean"] for row in rows}
    rates: dict[str, float] = {}
    for name, (simulated, _) in published.items():
        if name in utilities and simulated is not None:
            rates[name] = simulated
    pairs = list(combinations(sorted(rates, key=lambda name: -rates[name]), 2))
    reversed_pairs = []
    for above, below in pairs:  # the published order
        if utilities[above] < utilities[below]:
            reversed_pairs.append(f"`{below}` above `{above}`")
    sentences = []
    if reversed_pairs:
        sentences.append(
            f"Of {len(pairs)} pairs of methods, {len(reversed_pairs)} stand in another order by gold utility here than "
            f"by the published simulated win rate: {', '.join(reversed_pairs)}."
        )
    sentences += [_opposite_sign(row, published) for row in rows]
    return " ".join(sentence for sentence in sentences if sentence)


def _opposite_sign(row: Row, published: Published) -> str:
    """A sentence on a model whose shown difference to `sft` has the other sign than the published one."""
    gain = row.get("over_sft")
    if gain is None or not gain["shown"] or row["model"] not in published:
        return ""
    rate, rate_of_sft = published[row["model"]][0], published["sft"][0]
    if rate is None or rate_of_sft is None or (gain["mean"] > 0) == (rate > rate_of_sft):
        return ""
    verb = "beats" if gain["mean"] > 0 else "stays below"
    return f"`{row['model']}` {verb} `sft` here, by {spread(gain)}; published are {rate:.1f}% and {rate_of_sft:.1f}%."


def _agreement_table(correlations: Sequence[Row]) -> str:
    if not correlations:
        return ""
    lines = []
    for row in correlations:
        rho = f"{row['rank_correlation']:.2f}"
        lines.append([" and ".join(row["judges"]), f"`{row['against']}`", rho, str(row["models"])])
    sentence = "Spearman's correlation of the judges' win rates with each other, over the models that both judged:"
    return f"{sentence}\n\n{table(['judges', 'against', 'correlation', 'models'], lines)}"


def _best_of_n_table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        lines.append([f"`{row['model']}`", str(row["seed"]), spread(row["kl"]), f"{row['bound']:.3f}"])
    heading = ["KL of best-of-n to its reference [nats]", "seed", "estimate", "at most"]
    return f"{table(heading, lines)}\n\n{BY_CONSTRUCTION}"


def _best_of_n_rates(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        rate = row["rate"]
        measured = f"{rate['mean']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]"
        verdict = "within" if row["within"] else "above its bound"
        names = [f"`{row['model']}`", f"`{row['reference']}`", row["judge"], str(row["seed"])]
        lines.append([*names, measured, f"{row['bound']:.1f}", verdict])
    sentence = "Best-of-n beats a fresh answer of its reference in at most n/(n+1) of the cases, whoever judges:"
    heading = ["model", "against", "judge", "seed", "win rate [%]", "at most", "verdict"]
    return f"{sentence}\n\n{table(heading, lines)}"


def settings_section(rows: Sequence[Sequence[str]]) -> str:
    """How the models were trained, so that no departure from a paper or a default stays hidden."""
    sentence = (
        "What the job sets for each training stage: of the algorithm what differs from its defaults "
        "([reference.md](../reference.md) lists them, [methods.md](../methods.md) names their sources); of the learner "
        "the learning rate, the minibatch [samples] and what else differs."
    )
    return f"## Settings\n\n{sentence}\n\n{table(HEADING, rows)}"


def _sampling_section(name: str, sampling: Row | None, folder: Path) -> str:
    """RRHF's table with its plot, and what it says of the paper's claims; empty for other studies."""
    if sampling is None:
        return ""
    (folder / f"{name}_maxima.svg").write_text(maxima_plot(sampling["rows"]))
    parts = [
        table(*table_rows(sampling["rows"])),
        "*Models* are those in memory during training, beside the engines. Higher is better for reward and gold "
        "utility, lower for perplexity, which the base model measures. *Training* is the time of the setting's own "
        "stage, *drawing* that of the stage that drew its candidates; `ip2` starts from `dp`, whose times come on top.",
        findings(sampling),
        f"![Test reward of each setting over the mean of the maxima of its samples]({name}_maxima.svg)",
    ]
    return "\n\n".join(parts)


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rule = ["---"] * len(heading)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *lines))


def spread(interval: Row) -> str:
    """A mean with its interval."""
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def difference_cell(difference: Row | None) -> str:
    """A difference with its interval, in bold where it counts as shown; empty where there is none."""
    if difference is None:
        return ""
    text = spread(difference)
    return f"**{text}**" if difference["shown"] else text


def _seeds(difference: Row | None) -> str:
    return ", ".join(f"{mean:.3f}" for mean in difference["seeds"].values()) if difference else ""
