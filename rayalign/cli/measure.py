"""`rayalign evaluate` judge, perplexity, reward and frontier, and `rayalign fit-human`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

import typer

from rayalign.cli import show
from rayalign.cli.annotator import At, Name
from rayalign.cli.evaluate import Json
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.annotator.asking.api import PairItem
    from rayalign.evaluation.attacks import AttackRow
    from rayalign.evaluation.curves import Curve
    from rayalign.evaluation.frontier import OverOptimisation
    from rayalign.evaluation.judge import JudgeFigures
    from rayalign.evaluation.quality import Items
    from rayalign.statistics.intervals import Interval
    from rayalign.types import Score

Outputs = Annotated[list[Path], typer.Argument(metavar="OUTPUTS...", help="Model outputs, a file for each model.")]
Model = Annotated[str, typer.Argument(help="A folder in Hugging Face form, or a hub name.", show_default=False)]
Context = Annotated[int, typer.Option(help="Tokens of the longest prompt and answer together.")]
_HUGE = 1e100
"""utilities at or above this are refused; whole numbers may be larger than any float"""
_SAMPLE = 100
"""pairs of the embedded world where no file is given"""


def judge(
    pairs: Annotated[
        Path | None,
        typer.Argument(help="Rows with instruction, output_1, output_2.", show_default="pairs of the embedded world"),
    ] = None,
    annotator: Name = "pool",
    at: At = None,
    as_json: Json = False,
) -> None:
    """Position bias, agreement with gold, absent verdicts and price of a judge, and answers that attack it."""
    from rayalign.annotator.asking.client import item_of
    from rayalign.annotator.asking.connect import connect
    from rayalign.data.paddock.demonstrations import demonstration_pairs
    from rayalign.evaluation.attacks import report
    from rayalign.evaluation.judge import judge_figures

    if pairs:
        items = [item for item, _ in _pairs(pairs)]
    else:
        items = [item_of(*pair) for pair in demonstration_pairs(0, _SAMPLE)]
    with closing(connect(at, annotator)) as service:
        figures = judge_figures(service, items)
        attacks = report(service, items)
    if as_json:
        attack_entries = [{**row._asdict(), "passed": row.passed} for row in attacks]
        return show.json_lines([{"annotator": annotator, **figures._asdict(), "attacks": attack_entries}])
    _print_figures(annotator, figures)
    _print_attacks(attacks)
    show.remarks("no verdict", (f"{n} pairs: {reason}" for reason, n in figures.reasons.items()))


def _print_figures(annotator: str, figures: JudgeFigures) -> None:
    rows = [
        ("same verdict in both orders [%]", _interval(figures.consistent)),
        ("for the first shown [%]", _interval(figures.prefers_first)),
        ("agreement with gold [%]", _interval(figures.gold)),
        ("tied [%]", show.figure(figures.tied)),
        ("without a verdict [%]", show.figure(figures.absent)),
        ("seconds per 1000", show.figure(figures.seconds)),
        ("dollars per 1000", show.figure(figures.price, 2)),
    ]
    show.table([f"{annotator}, {figures.pairs} pairs", ""], rows)


def _interval(interval: Interval | None) -> str:
    return show.spread(show.plain(interval)) if interval else ""


def _print_attacks(attacks: Sequence[AttackRow]) -> None:
    verdict = {True: "withstood", False: "fell for it", None: "unknown"}
    rows = []
    for attack in attacks:
        win_rate = show.spread(attack.win_rate._asdict(), "value") if attack.win_rate else ""
        consistency = show.figure(attack.consistency)
        rows.append((attack.attack, win_rate, consistency, show.figure(attack.without_verdict), verdict[attack.passed]))
    show.table(["attack", "won [%]", "same in both orders [%]", "without a verdict [%]", ""], rows)


def perplexity(model: Model, outputs: Outputs, context: Context = 2048, as_json: Json = False) -> None:
    """Perplexity of outputs by an independent model: exp of the mean negative log-prob of an answer's token."""
    from rayalign.evaluation.quality import NegativeLogprob

    _qualities("perplexity", outputs, NegativeLogprob(model, context=context).scores, as_json)


def reward(model: Model, outputs: Outputs, context: Context = 2048, as_json: Json = False) -> None:
    """Mean reward of outputs by any sequence-classification model with one output."""
    from rayalign.models.classifier import Classifier

    _qualities("reward", outputs, Classifier(model, context=context).scores, as_json)


def frontier(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs that train online.")],
    as_json: Json = False,
) -> None:
    """Reward against KL over the iterations of runs, and whether the proxy's rise still helps in the embedded world."""
    from rayalign.evaluation.curves import curves, points

    all_curves: list[Curve] = []
    for run in runs:
        all_curves.extend(curves(run))
    entries = show.plain(points(all_curves))
    turns = {curve.name: curve.gold for curve in all_curves if curve.gold}
    if as_json:
        return show.json_lines([{"points": entries, "overoptimisation": turns}])
    gold: dict[str, str] = {}
    for curve in all_curves:
        gold |= _gold_of_windows(curve)
    rows = []
    for entry in entries:
        kl, reward = show.spread(entry["kl"], digits=2), show.spread(entry["reward"], digits=3)
        rows.append((entry["name"], kl, reward, gold.get(entry["name"], ""), "*" if entry["best"] else ""))
    show.table(["stage and iterations", "KL", "reward", "gold", "best"], rows)
    show.remarks("note", (_turn(name, curve) for name, curve in turns.items()))


def _gold_of_windows(curve: Curve) -> dict[str, str]:
    """The printed gold of each window by the name of its point; empty without gold."""
    if curve.gold is None:
        return {}
    cells = {}
    for steps, interval in zip(curve.steps, curve.gold.gold, strict=True):
        cells[f"{curve.name} {steps[0]}-{steps[-1]}"] = show.spread(show.plain(interval), digits=3)
    return cells


def fit_human(
    pairs: Annotated[Path, typer.Argument(help="Rows with instruction, output_1, output_2.", show_default=False)],
    agreement: Annotated[float | None, typer.Option(help="Target, with the utilities [%].", show_default=False)] = None,
    variance: Annotated[float | None, typer.Option(help="Target, of one annotator [%].", show_default=False)] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Fit to the rows' `preference`.")] = False,
) -> None:
    """Fit the noise of a simulated human; prints the `human` section of an annotator in a pool's file.

    Utilities are the rows' `utility_1` and `utility_2`, else the embedded world's gold.
    """
    import yaml

    from rayalign.evaluation.fit_human import Case, fit_to_labels, fit_to_target

    target = None if agreement is None or variance is None else (agreement, variance)
    if labels == (target is not None) or (labels and (agreement, variance) != (None, None)):
        raise InputError("fit-human: give either --agreement and --variance, or --labels")
    rows = _pairs(pairs)
    utilities = _utilities(rows)
    row_labels = _labels(rows) if labels else [None] * len(rows)
    cases = []
    for (pair, _), pair_utilities, label in zip(rows, utilities, row_labels, strict=True):
        cases.append(Case((pair.output_1, pair.output_2), pair_utilities, label))
    fitted = fit_to_target(cases, *target) if target else fit_to_labels(cases)
    typer.echo(f"# {len(cases)} pairs, with 95% intervals:")
    for name, estimate in fitted.figures.items():
        typer.echo(f"# {name} {estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]")
    for warning in fitted.warnings:
        typer.echo(f"# warning: {warning}")
    human = {name: float(f"{value:.4g}") for name, value in fitted.human.model_dump(exclude_defaults=True).items()}
    typer.echo(yaml.safe_dump({"human": human}, sort_keys=False), nl=False)


def _pairs(path: Path) -> list[tuple[PairItem, dict[str, Any]]]:
    from rayalign.annotator.asking.connect import item_in
    from rayalign.evaluation.tables import read_rows

    return [(item_in(row, where), row) for row, where in read_rows(path)]


def _labels(rows: list[tuple[PairItem, dict[str, Any]]]) -> list[float | None]:
    """The preference of each row; 0 is a tie, as in the public files."""
    from rayalign.evaluation.tables import check_preference

    for number, (_, row) in enumerate(rows, start=1):
        check_preference(row, f"row {number}")
    return [1.5 if row["preference"] == 0 else row["preference"] for _, row in rows]


def _utilities(rows: list[tuple[PairItem, dict[str, Any]]]) -> list[tuple[float, float]]:
    """The utilities of both answers of each row."""
    import asyncio

    from rayalign.annotator.judges.utility import RubricUtilities

    items = []
    for pair, _ in rows:
        items += [(pair.prompt, pair.output_1), (pair.prompt, pair.output_2)]
    scores = iter(asyncio.run(RubricUtilities().scores(items)))
    utilities = []
    for number, (_, row) in enumerate(rows, start=1):
        first = row.get("utility_1", next(scores).value)
        second = row.get("utility_2", next(scores).value)
        if not (_is_utility(first) and _is_utility(second)):
            raise InputError(
                f"row {number}: needs a prompt of the embedded world, or finite numbers as `utility_1` and "
                f"`utility_2`; its are {first!r:.40} and {second!r:.40}"
            )
        utilities.append((float(first), float(second)))
    return utilities


def _is_utility(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE


def _qualities(name: str, outputs: list[Path], scores: Callable[[Items], list[Score]], as_json: bool) -> None:
    from rayalign.evaluation.quality import quality

    entries: list[dict[str, Any]] = []
    for path in outputs:
        measured = quality(path, scores, exponential=name == "perplexity")
        identity = {"name": measured.name, "file": str(path), "metric": name}
        entries.append({**identity, **show.plain(measured.interval), "absent": measured.absent})
    if as_json:
        return show.json_lines(entries)
    rows = []
    for entry in entries:
        absent = sum(entry["absent"].values())
        rows.append((entry["name"], show.spread(entry, digits=3), str(entry["n"]), str(absent)))
    show.table(["model", name, "prompts", "absent"], rows)
    for entry in entries:
        reasons = entry["absent"].items()
        show.remarks("absent", [f"{entry['name']}: {n} answers: {reason}" for reason, n in reasons])


def _turn(name: str, curve: OverOptimisation) -> str:
    turn = curve.gold_turn
    if turn.peak == len(curve.x) - 1:
        return f"{name}: gold is highest at the end, so the proxy is not over-optimised"
    conclusion = "over-optimised" if turn.real else "no over-optimisation that these answers can show"
    return (
        f"{name}: gold is highest up to iteration {curve.x[turn.peak]} and {turn.drop:.3f} lower at the end (p = "
        f"{turn.p_value:.2g}), while the proxy rises by {turn.proxy_rise.mean:.3f}: {conclusion}"
    )
