"""The page of over-optimisation: both laws of both values, and where they fail."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS
from benchmarks.scaling_laws_page import write_page
from benchmarks.study_page import DOCS


def made_law(alpha: float, beta: float, r_squared: float) -> dict[str, Any]:
    law: dict[str, Any] = {"r_squared": r_squared}
    for name, mean in (("alpha", alpha), ("beta", beta)):
        law[name] = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    return law


def made_curve(model: str, accuracy: float, method: str, gold_law: dict[str, Any]) -> dict[str, Any]:
    return {
        "seed": 0,
        "reward_model": model,
        "accuracy": accuracy,
        "method": method,
        "distances": [0.5, 1.0, 2.0],
        "proxy": [0.1, 0.2, 0.3],
        "gold": [0.1, 0.15, 0.05],
        "proxy_law": made_law(0.75, 0.25, 0.99),
        "gold_law": gold_law,
    }


def page_of(folder: Path, *rows: dict[str, Any]) -> str:
    write_page(rows, folder)
    return (folder / "scaling_laws.md").read_text()


def test_proxy_and_gold_have_their_laws_with_intervals(tmp_path: Path) -> None:
    law = made_law(0.5, 0.2, 0.95)
    page = page_of(tmp_path, made_curve("nano_many", 0.7, "best_of_n", law), made_curve("nano_many", 0.7, "rl", law))
    start = "| nano, many | 0 | 70.0% | best-of-n | 2.00 |"
    assert f"{start} proxy | 0.750 [0.650, 0.850] | 0.250 [0.150, 0.350] | 0.99 | 0.300 at d = 2.00 |" in page
    assert f"{start} gold | 0.500 [0.400, 0.600] | 0.200 [0.100, 0.300] | 0.95 | 0.150 at d = 1.00 |" in page
    assert "describe the curve badly" not in page and "look better" not in page


def test_a_poor_fit_and_a_reversed_accuracy_are_named(tmp_path: Path) -> None:
    law = made_law(0.2, 0.1, 0.5)
    many, few = made_curve("nano_many", 0.6, "rl", law), made_curve("nano_few", 0.65, "rl", made_law(0.2, -0.1, 0.4))
    good = made_law(0.2, 0.1, 0.9)
    others = made_curve("pico_many", 0.6, "rl", good), made_curve("pico_many", 0.6, "best_of_n", good)
    page = page_of(tmp_path, many, few, *others)
    assert (
        f"nano, many, seed 0 (R² 0.50), has its highest gain at d = 1.00, by the law at {math.e:.2f}; nano, few" in page
    )
    assert "by the law at no distance." in page and "pico, many, seed 0 (R²" not in page
    assert "Fewer prompts look better for nano, seed 0 (65.0% with few, 60.0% with many)." in page


def test_the_committed_page_is_that_of_the_recorded_curves(tmp_path: Path) -> None:
    write_page(json.loads((RESULTS / "scaling_laws.json").read_text())["curves"], tmp_path)
    for name in ("scaling_laws.md", "scaling_laws.svg"):
        assert (tmp_path / name).read_text() == (DOCS / name).read_text()
