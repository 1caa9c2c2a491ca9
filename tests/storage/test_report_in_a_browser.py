"""The report in a real browser, from a telephone to a desk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from rayalign.storage.records import write_jsonl
from rayalign.storage.report import write_report
from rayalign.storage.summary import write_done, write_summary
from tests.browser import SIDEWAYS, chromium

LONG = "a_model_with_a_rather_long_name_for_a_telephone"
MEANS_OUT_OF_SIGHT = """() => {
    const outside = [];
    for (const table of document.querySelectorAll("table")) {
        const headings = [...table.querySelectorAll("th")];
        const column = headings.findIndex(heading => heading.textContent.startsWith("mean"));
        for (const row of column < 0 ? [] : table.rows) {
            const edge = row.cells[column]?.getBoundingClientRect().right ?? 0;
            if (edge > document.documentElement.clientWidth) outside.push(row.textContent);
        }
    }
    return outside;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "study"
    run.mkdir()
    (run / "job.yaml").write_text("name: study\nstages: {ppo: {kind: train}, final: {kind: evaluate}}\n")
    metrics = {"reward/mean": 0.25, "kl/reference": 1.5, "rollout/length_p95": 20.0, "rollout/entropy": 1.25}
    write_jsonl(
        run / "stages" / "ppo" / "metrics.jsonl", [{"step": s, "time": 0.0, "metrics": metrics} for s in (1, 2)]
    )
    results, differences, answers = [], [], []
    for name in (LONG, "sft", "ppo"):
        for metric in ("gold_utility", f"win_rate_by_careful_against_{LONG}"):
            results.append({"name": name, "metric": metric, "mean": 0.512, "low": 0.481, "high": 0.543, "n": 600})
        difference = {"a": name, "b": "base", "metric": "gold_utility", "mean_difference": 0.12, "low": 0.05}
        differences.append({**difference, "high": 0.19, "n": 600})
        answers.append({"model": name, "prompt_id": "1", "prompt": "w" * 300, "answer": "v" * 300, "value": 0.5})
    write_summary(run / "summary.json", results, differences, [{"name": "ppo", "status": "finished", "seconds": 9.0}])
    for name in ("ppo", "final"):
        write_done(run / "stages" / name, "hash", seconds=9.0)
    write_jsonl(run / "stages" / "final" / "records.jsonl", answers)
    return write_report(run)


@pytest.mark.parametrize("width", [390, 1000, 1400])
def test_it_fits_and_its_means_are_in_sight(browser: Browser, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(report.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate(SIDEWAYS) == 0
    assert page.evaluate(MEANS_OUT_OF_SIGHT) == []
    assert page.get_by_text("reward/mean").first.is_visible()
    page.close()


def test_the_pointer_shows_the_values_of_a_step(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 844})
    page.goto(report.as_uri())
    titles = page.locator("figure:has-text('rollout/entropy') .band title").all_text_contents()
    assert titles == ["step 1\nppo: 1.25", "step 2\nppo: 1.25"]
    page.close()
