from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.statistics.winrate import compare_win_rates, minimum_prompts, win_rate, win_rate_interval

FOLDERS = {1: "alpaca_eval_gpt4", 2: "weighted_alpaca_eval_gpt4_turbo"}


def test_by_hand() -> None:
    found = win_rate([1.0, 2.0, 1.5, None, 1.75, 0.0, float("nan")])
    # preferences 1, 2, 1.5, 1.75, 1.5: mean 1.55, sample variance 0.55 / 4
    assert found.win_rate == pytest.approx(55.0)
    assert found.standard_error == pytest.approx(100 * math.sqrt(0.55 / 4 / 5))
    assert found.discrete_win_rate == pytest.approx(60.0)
    assert found[3:] == (2, 1, 2, 5)


def test_what_is_no_verdict_is_refused() -> None:
    with pytest.raises(InputError, match="no preference"):
        win_rate([None, float("nan")])
    with pytest.raises(InputError, match="between 1"):
        win_rate([1.0, 0.5])


@pytest.mark.parametrize("version", [1, 2])
def test_published_leaderboards_come_out(version: int, test_data: Path) -> None:
    home = test_data / "alpaca_eval"
    with (home / f"leaderboard_alpaca_eval_{version}.csv").open() as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    assert published
    for model, row in published.items():
        with gzip.open(home / model / FOLDERS[version] / "annotations.json.gz", "rt", encoding="utf-8") as annotations:
            found = win_rate(a["preference"] for a in json.load(annotations))
        for name, value in found._asdict().items():
            assert value == pytest.approx(float(row[name]), abs=1e-6), (model, name)


def test_the_interval_is_clustered_by_prompt() -> None:
    verdicts = [1.0, 2.0] * 50
    alone = win_rate_interval(verdicts)
    assert (alone.mean, alone.n) == (50.0, 100)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * 5.0, rel=0.1)
    together = win_rate_interval([v for v in verdicts for _ in range(4)], [i for i in range(100) for _ in range(4)])
    assert together == pytest.approx(alone)


def test_sign_flips_by_hand() -> None:
    # differences 100, 100, 100: of the eight patterns of signs the two uniform ones reach 300
    found = compare_win_rates([2.0, 2.0, 2.0, None], [1.0, 1.0, 1.0, 2.0])
    assert (found.difference.mean, found.difference.n, found.deviation) == (100.0, 3, 0.0)
    assert found.p_value == pytest.approx(2 / 8)
    # two rows of one prompt flip together: four patterns, two of them as large
    assert compare_win_rates([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], ["a", "a", "b"]).p_value == pytest.approx(2 / 4)


def test_sampled_sign_flips_tell_a_difference_from_none() -> None:
    rng = np.random.default_rng(0)
    same = (1.0 + rng.random((2, 200))).tolist()
    better = np.clip(np.array(same[0]) + 0.1, 1.0, 2.0).tolist()
    assert compare_win_rates(*same).p_value > 0.05
    assert compare_win_rates(better, same[0]).p_value == pytest.approx(1 / 10_001)
    assert compare_win_rates(same[0], same[0]).p_value == 1.0


def test_minimum_prompts() -> None:
    # ((1.95996 + 0.84162) * 50 / 5)^2 = 784.9
    assert minimum_prompts(50.0, 5.0) == 785
    assert minimum_prompts(0.0, 5.0) == 2
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="more than 0"):
            minimum_prompts(50.0, wrong)
