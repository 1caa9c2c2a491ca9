"""The tables of the studies, on made values."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import studies
from benchmarks.sampling_settings import RRHF, SETTINGS
from benchmarks.studies import STUDIES, best_of_n, best_of_n_rates, doubts, figures, judge_correlations
from benchmarks.study_page import DOCS, departures, write_page
from benchmarks.study_settings import settings_rows
from benchmarks.study_values import Values, difference
from rayalign.storage.records import write_jsonl


def made_values(gains: dict[int, float]) -> Values:
    """Twenty prompts a seed, on which `new` exceeds `old` by the seed's gain, a little more or less in turn."""
    values: Values = {}
    for seed, gain in gains.items():
        for number in range(20):
            noise = 0.01 if number % 2 else -0.01
            values[seed, f"prompt {number}"] = {"old": 0.5, "new": 0.5 + gain + noise}
    return values


def test_a_gain_in_every_seed_is_shown() -> None:
    gain = difference(made_values({0: 0.1, 1: 0.3}), "new", "old")
    assert gain["mean"] == pytest.approx(0.2)
    assert gain["seeds"] == {0: pytest.approx(0.1), 1: pytest.approx(0.3)}
    assert gain["low"] > 0 and gain["shown"]
    assert gain["n"] == 40  # a prompt counts in each seed


def test_a_seed_of_the_other_sign_forbids_the_claim() -> None:
    gain = difference(made_values({0: 0.3, 1: -0.02}), "new", "old")
    assert gain["low"] > 0 and not gain["shown"]


def test_a_model_that_a_seed_lacks_is_compared_on_the_others() -> None:
    values = made_values({0: 0.1, 1: 0.3})
    for (seed, _), row in values.items():
        if seed == 1:
            del row["new"]
    assert difference(values, "new", "old")["seeds"] == {0: pytest.approx(0.1)}


def made_row(name: str, metric: str, mean: float) -> dict[str, Any]:
    return {"name": name, "metric": metric, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 20}


def made_results(summary: dict[str, Any]) -> dict[str, Any]:
    """What a page shows of two models in one seed, with a summary's best-of-n."""
    gain = difference(made_values({3: 0.1}), "new", "old")
    utility = {"mean": 0.5, "low": 0.4, "high": 0.6}
    old = {"model": "old", "value": utility, "perplexity": None, "win_rates": {}, "seconds": None}
    return {
        "job": "jobs/small/methods.yaml",
        "measure": "gold utility",
        "doubts": [],
        "seeds": [3],
        "seconds_of_each_seed": {3: 60.0},
        "peak_memory_bytes": {3: 2**30},
        "models": [{**old, "model": "new", "over_old": gain}, old],
        "rank_correlations": {},
        "judge_correlations": [],
        "best_of_n": best_of_n({3: summary}),
        "best_of_n_rates": best_of_n_rates({3: summary}),
        "settings": [["`new`", "sppo", "eta 20", "minibatch 64", "1 epoch"]],
        "sampling": None,
    }


def made_run_of_rrhf(folder: Path) -> Path:
    """Every setting's reward is as high as the mean of its maxima, but that of `od_4`, which is the lowest."""
    methods: list[dict[str, Any]] = []
    for place, name in enumerate(SETTINGS):
        reward = 0.0 if name == "od_4" else 0.1 * place
        row = {"name": name, "models": 1, "perplexity": 20.0, "reward": reward, "gold_utility": 0.5, "training": 60.0}
        if name in RRHF:
            row |= {"samples_mean": 0.4, "samples_deviation": 0.3, "samples_maximum": 0.1 * place, "drawing": 30.0}
        methods.append(row)
        for stage, value in (("reward", reward), ("gold", 0.5 + 0.01 * place)):
            path = folder / "stages" / stage / "records.jsonl"
            before = path.read_text() if path.exists() else ""
            rows = [{"model": name, "prompt_id": str(number), "value": value} for number in range(20)]
            write_jsonl(path, [*map(json.loads, before.splitlines()), *rows])
    results = [made_row("rm", "reward_accuracy", 0.61)]
    for name in ("d", "dp", "ppo"):
        results.append(made_row(name, "win_rate_by_gold_against_sft", 60.0))
        results.append(made_row(name, "win_rate_by_reward_against_sft", {"d": 70.0}.get(name, 80.0)))
    comparisons = [{"a": name, "b": "sft"} for name in SETTINGS if name != "sft"]
    summary = {"results": results, "comparisons": comparisons, "methods": methods, "stages": [], "peak_memory_bytes": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_page_of_rrhf_has_the_papers_table_and_its_two_claims(tmp_path: Path) -> None:
    study = STUDIES["rrhf"]
    results = figures(study, {0: made_run_of_rrhf(tmp_path / "run")})
    sampling = results["sampling"]
    assert sampling["reward_follows_maxima"][0] == pytest.approx(
        1 - 6 * (6**2 + 6) / (7 * 48)
    )  # from the last to the first
    assert sampling["without_rank_term"]["reward"]["mean"] == pytest.approx(0.1)
    write_page("rrhf", study.title, study.introduction, results, {}, tmp_path / "docs")
    page = (tmp_path / "docs" / "rrhf.md").read_text()
    assert (
        "| `dp` | diverse beam search, and those of `p` | 1 | 20.0 | 0.400 | 0.400 | 0.300 | 0.400 | 0.500 | 30 | 60 |"
        in page
    )
    assert "| `ppo` | online | 1 | 20.0 | 0.900 |  |  |  | 0.500 |  | 60 |" in page
    assert "prefers the better of two unseen answers in 61% [51, 71]" in page
    for name in ("rrhf", "rrhf_maxima"):
        assert f"({name}.svg)" in page
        ET.parse(tmp_path / "docs" / f"{name}.svg")


def test_the_settings_of_a_study_are_those_of_its_job() -> None:
    rows = {row[0]: row[1:] for row in settings_rows("jobs/small/methods.yaml")}
    learner = "learning_rate 0.0002, schedule linear, minibatch 64"
    assert rows["`sppo`"] == ["sppo", "eta 20", learner, "1 epoch"]  # `kind: soft` is the default
    assert rows["`orpo`"][1] == "weight 1" and rows["`rrhf_offline`"][1] == "sft_reduction mean"
    assert rows["`rrhf`"][1::2] == ["kl_coefficient 0.05", "28 iterations of 32 prompts"]
    assert rows["`sft_continued`"][2:] == ["learning_rate 0.0002, minibatch 32, length_window 256", "190 steps"]
    assert rows["`feedme`, `conditioning`"][1] == ""
    assert not any("labels" in names or "comparison" in names for names in rows)


def made_gain(model: str, gain: float, shown: bool) -> dict[str, Any]:
    utility = {"mean": 0.5 + gain, "low": 0.4 + gain, "high": 0.6 + gain}
    over_sft = {"mean": gain, "low": gain - 0.01, "high": gain + 0.01, "shown": shown}
    return {"model": model, "value": utility, "over_sft": over_sft}


def test_departures_from_the_published_order_are_named() -> None:
    published = {"a": (46.0, None), "b": (45.0, 50.0), "sft": (40.0, 44.0), "c": (39.0, None), "d": (None, 30.0)}
    sft = {"model": "sft", "value": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    as_published = [made_gain("a", 0.2, True), made_gain("b", 0.1, True), sft, made_gain("c", -0.1, True)]
    assert departures(as_published, published) == "" == departures(as_published, {})
    other = [made_gain("b", 0.3, True), made_gain("a", 0.2, True), made_gain("c", 0.1, True), sft]
    assert departures([*other, made_gain("d", 0.1, True)], published) == (
        "Of 6 pairs of methods, 2 stand in another order by gold utility here than by the published simulated win "
        "rate: `b` above `a`, `c` above `sft`. `c` beats `sft` here, by 0.100 [0.090, 0.110]; published are 39.0% and "
        "40.0%."
    )
    assert "beats" not in departures([*other[:2], made_gain("c", 0.1, False), sft], published)


def test_a_page_doubts_a_reward_before_its_first_figure(tmp_path: Path) -> None:
    accuracy = {"name": "rm", "metric": "reward_accuracy", "mean": 0.51, "low": 0.45, "high": 0.57, "n": 300}
    sentences = doubts({3: {"results": [accuracy]}, 4: {"results": []}})
    assert sentences == ["Seed 3: rm orders 51% of the held-out pairs as annotated (45% to 57%), which may be chance."]
    results = {**made_results({"results": []}), "measure": "reward", "doubts": sentences}
    results["models"][0]["perplexity"] = 12.345
    write_page("made", "Made", "An introduction.", results, {}, folder=tmp_path)
    text = (tmp_path / "made.md").read_text()
    assert text.index("which may be chance") < text.index("| model | reward |") < text.index("| 12.3 |")


def test_judges_are_correlated_over_the_models_that_both_judged() -> None:
    rows = []
    for model, by_pool, by_gold in (("a", 60.0, 70.0), ("b", 55.0, 65.0), ("c", 50.0, 75.0)):
        rows.append({"model": model, "win_rates": {"pool_against_sft": by_pool, "gold_against_sft": by_gold}})
    rows.append({"model": "d", "win_rates": {"pool_against_sft": 90.0}})
    [row] = judge_correlations(rows)
    assert row["judges"] == ["pool", "gold"] and row["against"] == "sft" and row["models"] == 3
    assert row["rank_correlation"] == pytest.approx(-0.5)


def test_the_kl_of_best_of_n_stands_beside_its_bound() -> None:
    rows = [made_row("best_of_16", "best_of_n_kl_estimate", 1.9), made_row("best_of_16", "best_of_n_kl", 1.835)]
    rows += [made_row("best_of_4", "best_of_n_kl_estimate", 1.0), made_row("best_of_4", "best_of_n_kl", 0.636)]
    first, second = best_of_n({3: {"results": rows}})
    assert (first["model"], first["seed"], first["bound"]) == ("best_of_16", 3, 1.835)
    assert first["kl"]["mean"] == 1.9 and second["bound"] == 0.636


def made_rates_of_best_of_4() -> dict[str, Any]:
    """A summary with a win rate within its bound, one above it, and one against another model."""
    rows = [made_row("best_of_4", "win_rate_bound_against_sft", 80.0)]
    rows.append(made_row("best_of_4", "win_rate_by_pool_against_sft", 75.0))
    rows.append(made_row("best_of_4", "win_rate_by_gold_against_sft", 80.2))
    rows.append(made_row("best_of_4", "win_rate_by_gold_against_ppo", 99.0))
    return {"results": rows}


def test_win_rates_of_best_of_n_stand_beside_their_bound() -> None:
    pool, gold = best_of_n_rates({3: made_rates_of_best_of_4()})
    assert (pool["model"], pool["judge"], pool["reference"], pool["seed"]) == ("best_of_4", "pool", "sft", 3)
    assert pool["rate"]["mean"] == 75.0 and pool["bound"] == 80.0
    assert pool["within"] and not gold["within"]


@pytest.mark.parametrize("name", list(STUDIES))
def test_pages_are_written_anew_from_what_is_recorded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["studies", "--recorded", name])
    monkeypatch.setattr(studies, "write_page", partial(write_page, folder=tmp_path))
    studies.main()
    for path in tmp_path.iterdir():
        assert path.read_text() == (DOCS / path.name).read_text()


def test_the_page_says_what_of_best_of_n_is_tested(tmp_path: Path) -> None:
    rates = made_rates_of_best_of_4()["results"]
    rows = [made_row("best_of_4", "best_of_n_kl_estimate", 0.6), made_row("best_of_4", "best_of_n_kl", 0.636)]
    write_page("made", "Made", "", made_results({"results": [*rows, *rates]}), {}, tmp_path)
    page = (tmp_path / "made.md").read_text()
    assert "| `best_of_4` | 3 | 0.600 [0.500, 0.700] | 0.636 |\n\nThe KL is estimated from the scores" in page
    assert "| `best_of_4` | `sft` | pool | 3 | 75.0 [74.9, 75.1] | 80.0 | within |" in page
    assert "| `best_of_4` | `sft` | gold | 3 | 80.2 [80.1, 80.3] | 80.0 | above its bound |" in page
    assert "| `new` | sppo | eta 20 | minibatch 64 | 1 epoch |" in page
