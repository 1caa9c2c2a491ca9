"""Tables of an iteration and what it is made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.page_cells import at_least, at_most, number, percent
from benchmarks.plots import Bar, Series, bars, lines
from benchmarks.staleness import plot
from benchmarks.study_page import table

Row = Mapping[str, Any]
PHASES = ("generate", "evaluate", "update", "publish")
COORDINATOR_LIMITS = (50.0, 1.2)
"""microseconds of a candidate, and the most over the least of them"""


def step(results: Row) -> str:
    """Placements and their phases."""
    limits, cells = results["limits"], []
    for name, row in results["placements"].items():
        cells.append([f"`{name}`", *_iteration(row, limits["sync_share_of_ideal"] if name == "sync" else None)])
    for name, row in results["larger"]["placements"].items():
        cells.append([f"`{name}`, 27M", *_iteration(row, limits["sync_share_of_ideal"] if name == "sync" else None)])
    heading = ["placement", "seconds", *PHASES, "share of the ideal", "of the loops at once"]
    speed = at_least(results["overlap_speed"], limits["overlap_speed"])
    sentence = (
        f"The goal for `sync` is {number(limits['sync_share_of_ideal'])} of the ideal. Its rounds {_rounds(results)}. "
        f"With models of 27M parameters they {_rounds(results['larger'])}. Overlap makes an iteration {speed} "
        f"times as fast (at least {number(limits['overlap_speed'])}); generating and scoring are "
        f"{percent(results['generation_share'])} of the work. {_slower_at_once(results)}"
    )
    return f"{table(heading, cells)}\n\n{sentence}"


def _iteration(row: Row, goal: float | None) -> list[str]:
    """The cells of one placement; its share is judged where there is a goal."""
    share = row["share_of_ideal"]
    judged = number(share) if goal is None else at_least(share, goal)
    phases = [number(row.get(f"phase/{phase}")) for phase in PHASES]
    return [number(row["phase/total"]), *phases, judged, number(row["share_at_once"])]


def _rounds(results: Row) -> str:
    """The shares of all rounds."""
    shares, at_once = (", ".join(map(number, results[key])) for key in ("sync_shares", "sync_shares_at_once"))
    return f"reached {shares} ({at_once} of the loops at once)"


def _slower_at_once(results: Row) -> str:
    """How much longer the bare loops take where every core runs them."""
    kinds = ("generate", "score", "update")
    alone, at_once = results["bare_core_seconds"], results["bare_core_seconds_at_once"]
    ratios = [f"{number(at_once[kind] / alone[kind])} times ({kind})" for kind in kinds]
    return f"On every core at once, the loops take {', '.join(ratios)} as long as alone."


def step_plot(results: Row) -> str:
    """The phases of each placement one after the other."""
    rows = []
    for name, row in results["placements"].items():
        values = [row.get(f"phase/{phase}", 0.0) for phase in PHASES]
        other = max(0.0, row["phase/total"] - sum(values))
        rows.append(Bar(name, [*values, other]))
    return bars("seconds of an iteration", [*PHASES, "other"], rows)


def latency(results: Row) -> str:
    """Iterations that only wait."""
    cells = []
    for row in results["seconds"]:
        times = [number(row[key]) for key in ("generate_and_score", "update", "staleness_1")]
        cells.append([*times, at_most(row["ratio"], results["limit_ratio"])])
    return table(["generate and score", "update", "iteration", f"ratio, at most {results['limit_ratio']}"], cells)


def staleness(results: Row) -> str:
    """Each setting's means over the seeds."""
    figures = ("seconds", "reward", "gold_utility", "rollout/staleness", "rollout/mixed", "rollout/dropped")
    cells = [[f"`{name}`", *(number(row[key]) for key in figures)] for name, row in results["means"].items()]
    seeds = sorted({run["seed"] for run in results["runs"]})
    heading = ["setting", "seconds", "reward", "gold utility", "staleness", "mixed answers", "dropped"]
    return f"{table(heading, cells)}\n\nSeeds: {', '.join(map(str, seeds))}."


def staleness_plot(results: Row) -> str:
    """Seconds, gold utility and reward over the staleness."""
    return plot(results["means"])


def ppo_iteration(results: Row) -> str:
    """The phases alone, and the iteration."""
    alone = results["alone_seconds"]
    cells = [[name.replace("_", " "), number(seconds)] for name, seconds in alone.items()]
    cells.append(["sum", number(results["alone_sum"])])
    cells.append(["iteration", number(results["iteration_seconds"])])
    ratio = at_most(results["ratio"], results["limit_ratio"])
    sentence = f"An iteration takes {ratio} of the sum (at most {results['limit_ratio']})."
    return f"{table(['phase alone', 'seconds'], cells)}\n\n{sentence}"


def iteration_before(results: Row) -> str:
    """Seconds now and before, and their ratio, which no longer iteration exceeds."""
    now, before, ratios = results["medians"]["now"], results["medians"]["before"], results["now_to_before"]
    cells = [[name, number(now[name]), number(before[name]), at_most(ratios[name], 1.0)] for name in ratios]
    return table(["median seconds", "now", "before", "now to before"], cells)


def scale(results: Row) -> str:
    """The coordinator's time for each candidate."""
    most, spread = COORDINATOR_LIMITS
    parts = []
    for prefix in ("", "busy_"):
        rows = []
        for row in results[f"{prefix}runs"]:
            microseconds = at_most(row["coordinator_microseconds"], most)
            share = row["coordinator_share_of_a_core"]
            candidates_per_second = 1e6 * share / row["coordinator_microseconds"]
            rate = number(candidates_per_second / results["candidates_per_group"])
            rows.append([str(row["engines"]), microseconds, percent(share), rate])
        ratio = at_most(results[f"{prefix}most_against_least"], spread)
        heading = ["engines", f"microseconds of a candidate, at most {most:.0f}", "share of a core", "groups a second"]
        parts.append(f"Engines that write at most {results[f'{prefix}groups_per_second']:.0f} groups a second in all:")
        parts += [table(heading, rows), f"The most is {ratio} times the least (at most {spread})."]
    if "ranks" in results:
        ranks = [
            [str(row["ranks"]), number(row["coordinator_microseconds"]), number(1000 * row["seconds_of_an_iteration"])]
            for row in results["ranks"]
        ]
        parts.append(table(["ranks", "microseconds of a candidate", "milliseconds of an iteration"], ranks))
    return "\n\n".join(parts)


def scale_plot(results: Row) -> str:
    """Microseconds over the number of engines, and of ranks."""
    charts = []
    engines: list[Series] = []
    for prefix in ("", "busy_"):
        name = f"{results[f'{prefix}groups_per_second']:.0f} groups a second"
        engines.append(Series(name, _costs(results[f"{prefix}runs"], "engines")))
    charts.append(("microseconds of a candidate, by engines", engines))
    if "ranks" in results:
        ranks = [Series("coordinator", _costs(results["ranks"], "ranks"))]
        charts.append(("microseconds of a candidate, by ranks", ranks))
    return lines(charts, "how many")


def _costs(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """The coordinator's microseconds by the number of engines or ranks."""
    return [(float(row[key]), row["coordinator_microseconds"]) for row in rows]


def weight_transfer(results: Row) -> str:
    """Proven transfers by size of the model and by path."""
    cells = []
    for size, limit in results["limits_seconds"].items():
        for path in ("store", "files"):
            row = results[size][path]
            sent = row["transfers"][0]["bytes"]
            seconds = row["median_seconds"]
            gap = max(transfer["probe_gap"] for transfer in row["transfers"])
            shown = [at_most(seconds, limit), number(limit)] if path == "store" else [number(seconds), ""]
            cells.append([size, path, number(sent / 1e6), *shown, number(sent / seconds / 1e9), f"{gap:.1e}"])
    heading = ["parameters", "path", "MB", "seconds", "at most", "GB/s", "largest gap of the probe [nats]"]
    return table(heading, cells)


def rollout_throughput(results: Row) -> str:
    """Tokens a second of bare engines and of the pool."""
    turns = results["tokens_per_second"]
    bare, pool = (statistics.median(turn[side] for turn in turns) for side in ("bare", "pool"))
    ratio = at_least(results["median_ratio"], results["limit_ratio"])
    heading = ["bare engines, tokens/s", "pool, tokens/s", f"median ratio, at least {results['limit_ratio']}"]
    return table(heading, [[number(bare), number(pool), ratio]])


def gpu_smoke(results: Row) -> str:
    """Each step on a GPU."""
    shown = ("tokens_per_second", "mfu", "gigabytes_per_second")
    cells = []
    for name, row in results["steps"].items():
        passed = "yes" if row["passed"] else row["reason"].splitlines()[0]
        cells.append([f"`{name}`", passed, number(row["seconds"]), *(number(row.get(key)) for key in shown)])
    devices = ", ".join(results["devices"])
    sentence = f"{results['parameters'] / 1e9:.2f}B parameters on {devices}, {number(results['seconds'])} s in all."
    turns = results["steps"].get("device_turns", {}).get("turn_seconds")
    if turns:
        sentence += (
            f" On one device, putting the engine to sleep and waking the learner takes {number(turns['training'])} s,"
        )
        sentence += f" the way back with its transfer {number(turns['publish_and_rollout'])} s."
    return f"{table(['step', 'passed', 'seconds', 'tokens/s', 'MFU', 'GB/s'], cells)}\n\n{sentence}"
