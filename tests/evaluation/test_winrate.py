from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import pytest

from rayalign.errors import InputError
from rayalign.evaluation import win_rate

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
