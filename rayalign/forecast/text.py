"""A forecast in lines of plain text: ranges, and for each of them the measurement that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayalign.forecast.forecast import Forecast, StageForecast
from rayalign.forecast.splits import Split
from rayalign.forecast.timing import Span

UNKNOWN = "unknown"
SPLITS_SHOWN = 3
"""the fastest divisions of devices"""


def span(value: Span, unit: str = "") -> str:
    """A range with two digits."""
    text = f"{number(value.low)} to {number(value.high)}"
    return f"{text} {unit}" if unit else text


def number(value: float) -> str:
    """Two digits that count, without an exponent."""
    if value >= 10:
        digits = len(str(int(value))) - 2
        return str(int(round(value, -digits)))
    return f"{value:.2g}" if value >= 0.01 else "0.01"


def duration(seconds: Span) -> str:
    """A range of time in the unit that suits its end."""
    if seconds.high < 120:
        return span(seconds, "s")
    if seconds.high < 7200:
        return span(seconds * (1 / 60), "min")
    return span(seconds * (1 / 3600), "h")


def verdict(outcome: Forecast) -> str:
    """Whether the job fits, as a sentence."""
    if not outcome.fits:
        return "it does not fit"
    return "whether it fits is unknown" if outcome.unsized else "it fits"


def fits_cell(outcome: Forecast) -> str:
    """Whether the job fits, in a table."""
    if not outcome.fits:
        return "no"
    return UNKNOWN if outcome.unsized else "yes"


def stage_row(stage: StageForecast, outcome: Forecast) -> tuple[str, ...]:
    """Name, whether it fits, seconds of a unit, how many, whole time, slowest phase."""
    fits = UNKNOWN if stage.name in outcome.unsized else "yes"
    if any(misfit.stage == stage.name for misfit in outcome.misfits):
        fits = "no"
    if not stage.unit:
        return stage.name, fits, "", "", UNKNOWN, ""
    seconds = f"{stage.unit} {span(stage.seconds, 's')}"
    count = "" if stage.count is None else str(stage.count)
    total = stage.total
    whole = duration(total) if total is not None else UNKNOWN
    return stage.name, fits, seconds, count, whole, stage.bottleneck


HEADINGS = ("stage", "fits", "seconds", "times", "whole time", "slowest")


def phase_lines(stage: StageForecast) -> Iterator[str]:
    """The seconds of each phase of an online stage, and its bottleneck."""
    if stage.unit != "iteration":
        return
    parts = [f"{time.phase} {span(time.seconds)}" for time in stage.phases.values()]
    yield f"{stage.name}, seconds of an iteration: {', '.join(parts)}; the bottleneck is {stage.bottleneck}"


def calibration_lines(outcome: Forecast) -> Iterator[str]:
    """On what each phase's range rests; equal grounds of several stages once."""
    shown: set[str] = set()
    for stage in outcome.stages:
        for time in stage.phases.values():
            share = time.share
            line = f"{time.phase}: {share.low:.0%} to {share.high:.0%} of the ideal; {share.source}"
            if line not in shown:
                shown.add(line)
                yield line
        if stage.lengths and stage.lengths not in shown:
            shown.add(stage.lengths)
            yield f"lengths: {stage.lengths}"


def size_cells(outcome: Forecast) -> tuple[str, str, str]:
    """Whether the job fits on machines of a size, its whole time and its cost."""
    least = "at least " if set(outcome.unsized) & set(outcome.untimed) else ""
    whole = f"{least}{duration(outcome.hours * 3600)}" if outcome.is_timed else UNKNOWN
    cost = ""
    if outcome.cost is not None:
        cost = f"{least}{span(outcome.cost, outcome.hardware.currency)}" if outcome.is_timed else UNKNOWN
    return fits_cell(outcome), whole, cost


def total_line(outcome: Forecast) -> str:
    """Hours and cost of the run."""
    if not outcome.is_timed:
        return f"whole run: {UNKNOWN}"
    total = duration(outcome.hours * 3600)
    cost, price = outcome.cost, outcome.hardware.price
    if cost is not None and price is not None:
        currency = outcome.hardware.currency
        total += f", {span(cost, currency)} at {price:g} {currency} an hour"
    else:
        total += "; the machines have no price"
    if outcome.untimed:
        total += f"; without {', '.join(outcome.untimed)}"
    return f"whole run: {total}"


def unknown_lines(outcome: Forecast) -> Iterator[str]:
    """Why some stages have no time."""
    for stage in outcome.stages:
        if stage.unknown:
            yield f"{stage.name}: {stage.unknown}"


def split_lines(divisions: Sequence[Split], own: Span) -> Iterator[str]:
    """The fastest divisions of devices, beside the job's own."""
    if not divisions:
        return
    yield f"division of devices, all iterations (as the job is: {duration(own)}):"
    for split in divisions[:SPLITS_SHOWN]:
        yield f"  {split}: {duration(split.seconds)}"
    best = divisions[0]
    yield f"best: {' '.join(_quoted(override) for override in best.overrides)}"


def _quoted(override: str) -> str:
    return f"'{override}'" if " " in override else override
