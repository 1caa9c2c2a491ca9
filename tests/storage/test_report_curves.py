from __future__ import annotations

import re
from typing import Any

import pytest

from rayalign.storage.report_curves import curves_section
from rayalign.storage.report_plots import PALETTE, chart, styles


def rows(**metrics: list[float | None]) -> list[dict[str, Any]]:
    """Steps from 1 on; `reward_mean` is `reward/mean`."""
    names = {key: key.replace("_", "/", 1) for key in metrics}
    steps = range(len(next(iter(metrics.values()))))
    return [{"step": s + 1, "metrics": {names[key]: values[s] for key, values in metrics.items()}} for s in steps]


def figures(page: str) -> dict[str, str]:
    """The charts of a page by their names."""
    charts = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    return {re.findall("<b>(.*?)</b>", svg)[0]: svg for svg in charts}


def test_algorithms_are_overlaid_with_a_line_each() -> None:
    metrics = {
        "ppo": rows(rollout_length_p95=[20.0, 21.0], reward_mean=[0.0, 1.0]),
        "grpo": rows(rollout_length_p95=[20.0, 22.0, 23.0], reward_mean=[0.5, 1.5, 2.0]),
        "base": rows(loss_sft=[2.0, 1.0]),
    }
    page = curves_section(metrics, {"base": "pretrain", "ppo": "train", "grpo": "train"})
    assert page.index("Online training") < page.index("Pretraining")
    charts = figures(page)
    assert charts["reward/mean"].count("<polyline") == 2 and charts["loss/sft"].count("<polyline") == 1
    assert f"color:{PALETTE[0]}" in charts["reward/mean"] and f"color:{PALETTE[1]}" in charts["reward/mean"]
    # both axes hold all curves, and the pointer shows the values of each at a step
    assert "step 3" in charts["reward/mean"]
    assert "<title>step 2\nppo: 1\ngrpo: 1.50</title>" in charts["reward/mean"]
    assert "<title>step 3\ngrpo: 2</title>" in charts["reward/mean"]


def test_what_a_stage_reports_is_drawn_with_unit_and_direction() -> None:
    names = ("reward_std", "kl_reference", "policy_entropy", "policy_approx_kl", "policy_clip_fraction")
    names += ("rollout_length_p95", "learner_learning_rate", "learner_grad_norm", "gold_utility", "phase_update")
    page = curves_section({"ppo": rows(**{name: [0.1, 0.2] for name in names})}, {"ppo": "train"})
    charts = figures(page)
    assert set(charts) == {name.replace("_", "/", 1) for name in names} - {"phase/update"}
    assert "Further metrics" not in page
    assert list(charts)[0] == "gold/utility"
    assert "0 to 1, higher is better" in charts["gold/utility"]
    assert "nats a token" in charts["policy/entropy"] and "0.100 → 0.200" in charts["policy/entropy"]


def test_what_a_user_s_own_algorithm_reports_is_folded_in() -> None:
    metrics = {"own": rows(reward_mean=[0.0], courtesy_share=[0.5], rollout_entropy=[1.5], eval_epoch=[1.0])}
    page = curves_section(metrics, {"own": "train"})
    first, folded = page.split("<details>")
    assert list(figures(first)) == ["reward/mean", "rollout/entropy"]
    assert "<summary>Further metrics (1)</summary>" in folded and list(figures(folded)) == ["courtesy/share"]


def test_reward_against_kl_is_shown_where_both_are_known() -> None:
    metrics = {"ppo": rows(rollout_x=[1.0, 1.0, 1.0], reward_mean=[0.0, 1.0, 2.0], kl_reference=[None, 0.5, 0.5])}
    page = curves_section(metrics, {"ppo": "train"})
    assert figures(page)["reward/mean against kl/reference"].count("<circle") == 2
    assert "against" not in curves_section({"ppo": rows(reward_mean=[0.0])}, {"ppo": "train"})
    assert curves_section({}, {}) == ""


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0], [-1e-9, 1e-9], [1e6, 3e6], [0.5] * 5000])
def test_line_stays_inside_its_frame(values: list[float]) -> None:
    svg = chart("a", {"ppo": list(enumerate(values))}, styles(["ppo"]))
    (points,) = re.findall('points="([^"]+)"', svg)
    for x, y in (map(float, p.split(",")) for p in points.split()):
        assert 46 <= x <= 310 and 8 <= y <= 148
    bands = re.findall('class="band" x="([^"]+)" y="8" width="([^"]+)"', svg)
    assert 1 <= len(bands) <= 40
    assert all(float(x) >= 46 and float(x) + float(width) <= 310.6 for x, width in bands)


def test_points_over_something_else_are_dots_without_a_line() -> None:
    svg = chart("reward", {"ppo": [(2.0, 1.0), (0.0, 0.0), (1.0, 3.0)]}, styles(["ppo"]), over="KL")
    dots = re.findall('cx="([^"]+)" cy="([^"]+)"', svg)
    # the frame goes from 46 to 310, and from 148 up to 8 for the ticks 0 to 3
    assert dots == [("46.0", "148.0"), ("178.0", "8.0"), ("310.0", "101.3")]
    assert "polyline" not in svg and ">KL 2</text>" in svg


def test_more_curves_than_colours_get_dashes() -> None:
    lines = styles([str(number) for number in range(len(PALETTE) + 1)])
    assert len(set(lines.values())) == len(lines)
    assert "dasharray" in lines[str(len(PALETTE))] and "dasharray" not in lines["0"]


def test_large_numbers_fit_beside_their_axis() -> None:
    svg = chart("publish/bytes", {"ppo": [(0.0, 3_000_000.0), (1.0, 3_700_000.0)]}, styles(["ppo"]))
    assert re.findall(r'text-anchor="end">([^<]+)</text>', svg)[:2] == ["3M", "3.5M"]
