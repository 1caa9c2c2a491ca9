"""`rayalign evaluate` judge, perplexity, reward and frontier, and `rayalign fit-human`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.cli import show
from rayalign.cli.annotator import At, Name
from rayalign.cli.evaluate import Json
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.annotator.api import PairItem
    from rayalign.evaluation.frontier import OverOptimisation
    from rayalign.evaluation.quality import Items
    from rayalign.types import Score

Outputs = Annotated[list[Path], typer.Argument(metavar="OUTPUTS...", help="Model outputs, a file for each model.")]
Model = Annotated[str, typer.Argument(help="A folder in Hugging Face form, or a hub name.", show_default=False)]
Context = Annotated[int, typer.Option(help="Tokens of the longest prompt and answer together.")]
_HUGE = 1e100
"""a utility this large is none, and whole numbers may be larger than any float"""
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
    """How a judge fares: position, gold, what it leaves open, its price, and answers that attack it."""
    from rayalign.annotator.client import item_of
    from rayalign.annotator.connect import connect
    from rayalign.data.paddock.demonstrations import demonstration_pairs
    from rayalign.evaluation.attacks import report
    from rayalign.evaluation.judge import judge_figures

    asked = [p for p, _ in _pairs(pairs)] if pairs else [item_of(*p) for p in demonstration_pairs(0, _SAMPLE)]
    with closing(connect(at, annotator)) as service:
        figures = judge_figures(service, asked)
        attacked = report(service, asked)
    attacks = [{**row._asdict(), "passed": row.passed} for row in attacked]
    if as_json:
        return show.json_lines([{"annotator": annotator, **figures._asdict(), "attacks": attacks}])
    found = show.plain(figures)
    spreads = {"same verdict in both orders [%]": "consistent", "for the first shown [%]": "prefers_first"}
    spreads["agreement with gold [%]"] = "gold"
    rows = [(label, show.spread(found[key]) if found[key] else "") for label, key in spreads.items()]
    plain = {"tied [%]": figures.tied, "without a verdict [%]": figures.absent, "seconds per 1000": figures.seconds}
    rows += [(label, show.figure(value)) for label, value in plain.items()]
    rows.append(("dollars per 1000", show.figure(figures.price, 2)))
    show.table([f"{annotator}, {figures.pairs} pairs", ""], rows)
    verdict = {True: "withstood", False: "fell for it", None: "unknown"}
    show.table(
        ["attack", "won [%]", "same in both orders [%]", "without a verdict [%]", ""],
        [
            (a["attack"], show.spread(a["win_rate"]._asdict(), "value") if a["win_rate"] else "",
             show.figure(a["consistency"]), show.figure(a["without_verdict"]), verdict[a["passed"]])
            for a in attacks
        ],
    )  # fmt: skip
    show.remarks("no verdict", (f"{n} pairs: {reason}" for reason, n in figures.reasons.items()))


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

    found = [curve for run in runs for curve in curves(run)]
    shown = show.plain(points(found))
    turns = {curve.name: curve.gold for curve in found if curve.gold}
    if as_json:
        return show.json_lines([{"points": shown, "overoptimisation": turns}])
    gold = {
        f"{c.name} {steps[0]}-{steps[-1]}": show.spread(show.plain(truth), digits=3)
        for c in found
        if c.gold
        for steps, truth in zip(c.steps, c.gold.gold, strict=True)
    }
    rows = [
        (p["name"], show.spread(p["kl"], digits=2), show.spread(p["reward"], digits=3), gold.get(p["name"], ""),
         "*" if p["best"] else "")
        for p in shown
    ]  # fmt: skip
    show.table(["stage and iterations", "KL", "reward", "gold", "best"], rows)
    show.remarks("note", (_turned(name, turn) for name, turn in turns.items()))


def fit_human(
    pairs: Annotated[Path, typer.Argument(help="Rows with instruction, output_1, output_2.", show_default=False)],
    agreement: Annotated[float | None, typer.Option(help="With the utilities, wanted [%].", show_default=False)] = None,
    variance: Annotated[float | None, typer.Option(help="Of one annotator, wanted [%].", show_default=False)] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Fit to the rows' `preference`.")] = False,
) -> None:
    """Fit the noise of a simulated human; prints the `human` section of an annotator in a pool's file.

    Utilities are the rows' `utility_1` and `utility_2`, else the embedded world's gold.
    """
    import yaml

    from rayalign.evaluation.fit_human import Case, fit_to_labels, fit_to_target

    wanted = None if agreement is None or variance is None else (agreement, variance)
    if labels == (wanted is not None) or (labels and (agreement, variance) != (None, None)):
        raise InputError("fit-human: give either --agreement and --variance, or --labels")
    rows = _pairs(pairs)
    utilities = _utilities(rows)
    said = _labels(rows) if labels else [None] * len(rows)
    cases = [
        Case((pair.output_1, pair.output_2), worth, label)
        for (pair, _), worth, label in zip(rows, utilities, said, strict=True)
    ]
    fitted = fit_to_target(cases, *wanted) if wanted else fit_to_labels(cases)
    told = [f"{name} {e.value:.4g} [{e.low:.4g}, {e.high:.4g}]" for name, e in fitted.figures.items()]
    for line in (f"{len(cases)} pairs, with 95% intervals:", *told, *(f"warning: {w}" for w in fitted.warnings)):
        typer.echo(f"# {line}")
    human = {name: float(f"{value:.4g}") for name, value in fitted.human.model_dump(exclude_defaults=True).items()}
    typer.echo(yaml.safe_dump({"human": human}, sort_keys=False), nl=False)


def _pairs(path: Path) -> list[tuple[PairItem, dict[str, Any]]]:
    from rayalign.annotator.connect import item_in
    from rayalign.evaluation.tables import read_rows

    return [(item_in(row, where), row) for row, where in read_rows(path)]


def _labels(rows: list[tuple[PairItem, dict[str, Any]]]) -> list[float | None]:
    """What was said of each row; 0 is a tie, as in the public files."""
    from rayalign.evaluation.tables import check_preference

    for number, (_, row) in enumerate(rows, start=1):
        check_preference(row, f"row {number}")
    return [1.5 if row["preference"] == 0 else row["preference"] for _, row in rows]


def _utilities(rows: list[tuple[PairItem, dict[str, Any]]]) -> list[tuple[float, float]]:
    """What both answers of each row are worth."""
    import asyncio

    from rayalign.annotator.judges import RubricUtilities

    items = [(pair.prompt, text) for pair, _ in rows for text in (pair.output_1, pair.output_2)]
    scores = iter(asyncio.run(RubricUtilities().scores(items)))
    found = []
    for number, (_, row) in enumerate(rows, start=1):
        gold = next(scores), next(scores)
        values = [row.get(f"utility_{i}", score.value) for i, score in enumerate(gold, start=1)]
        first, second = (
            v if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _HUGE else None for v in values
        )
        if first is None or second is None:
            raise InputError(
                f"row {number}: needs a prompt of the embedded world, or finite numbers as `utility_1` and "
                f"`utility_2`; its are {values[0]!r:.40} and {values[1]!r:.40}"
            )
        found.append((float(first), float(second)))
    return found


def _qualities(name: str, outputs: list[Path], scores: Callable[[Items], list[Score]], as_json: bool) -> None:
    from rayalign.evaluation.quality import quality

    found = [quality(path, scores, exponential=name == "perplexity") for path in outputs]
    entries: list[Mapping[str, Any]] = [
        {"name": q.name, "file": str(path), "metric": name, **show.plain(q.interval), "absent": q.absent}
        for q, path in zip(found, outputs, strict=True)
    ]
    if as_json:
        return show.json_lines(entries)
    rows = [(e["name"], show.spread(e, digits=3), str(e["n"]), str(sum(e["absent"].values()))) for e in entries]
    show.table(["model", name, "prompts", "absent"], rows)
    show.remarks("absent", (f"{e['name']}: {n} answers: {why}" for e in entries for why, n in e["absent"].items()))


def _turned(name: str, curve: OverOptimisation) -> str:
    turn = curve.gold_turn
    if turn.peak == len(curve.x) - 1:
        return f"{name}: gold is highest at the end, so the proxy is not over-optimised"
    said = "over-optimised" if turn.real else "no over-optimisation that these answers can show"
    return (
        f"{name}: gold is highest up to iteration {curve.x[turn.peak]} and {turn.drop:.3f} lower at the end (p = "
        f"{turn.p_value:.2g}), while the proxy rises by {turn.proxy_rise.mean:.3f}: {said}"
    )
