from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rayalign.storage.records import write_jsonl
from rayalign.storage.report import write_report
from rayalign.storage.report_plots import forest, number
from rayalign.storage.summary import write_done, write_summary
from tests.storage.test_report_evolution import FIGURES as EVOLUTION
from tests.storage.test_report_judges import RESULTS as WIN_RATES

EVIL = "<script>alert('x')</script>&"
JOB = f"""
name: study  # jobs/study.yaml:1
seed: 7
stages:
  ppo: {{kind: train, model: "{EVIL}"}}
  evolve: {{kind: evolve}}
  evaluate: {{kind: evaluate}}
"""


class Outline(HTMLParser):
    """Tags that were opened and not closed, texts, and what would be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def partial_run(run: Path) -> Path:
    run.mkdir()
    (run / "job.yaml").write_text(JOB)
    events = [{"time": 1000.0, "event": "stage_started", "pid": 1, "stage": "ppo"}]
    write_jsonl(run / "events.jsonl", events)
    metrics = {
        "reward/mean": 0.25,
        "phase/generate": 3.0,
        "phase/unattributed": 1.0,
        "phase/total": 4.0,
        f"loss/{EVIL}": 1.0,
    }
    rows = [{"step": s, "time": 0.0, "metrics": {**metrics, "kl/reference": None}} for s in (1, 2)]
    write_jsonl(run / "stages" / "ppo" / "metrics.jsonl", rows)
    samples = [
        {"iteration": i, "prompt": p, "answer": f"{EVIL} {p}{i}", "score": None, "finish": "stop"}
        for i, p in ((1, "again"), (1, "once"), (5, "again"), (9, "again"))
    ]
    write_jsonl(run / "stages" / "ppo" / "samples.jsonl", samples)
    return run


def finished_run(run: Path) -> Path:
    partial_run(run)
    result = {"name": EVIL, "metric": "gold_utility", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    by_criterion = {**result, "metric": "win_rate_by_gold_on_P2B_against_sft", "mean": 87.5, "criterion": "P2B"}
    under_profile = {**result, "metric": "gold_utility@P1A+P2B", "mean": 0.625}
    difference = {
        "a": EVIL,
        "b": "sft",
        "metric": "gold_utility",
        "mean_difference": 0.12,
        "low": 0.05,
        "high": 0.19,
        "n": 20,
    }
    stages = [{"name": name, "status": "finished", "seconds": 12.5} for name in ("ppo", "evolve", "evaluate")]
    write_summary(run / "summary.json", [result, under_profile, by_criterion], [difference], stages, 3 << 30)
    for name in ("ppo", "evolve", "evaluate"):
        figures = EVOLUTION if name == "evolve" else {}
        write_done(run / "stages" / name, "hash", seconds=12.5, fixed_seconds=4.0, **figures)
    answers = [
        {"model": m, "prompt_id": str(i), "prompt": f"prompt {i}", "answer": f"{EVIL} {m}{i}", "value": 0.5}
        for m in ("sft", "ppo")
        for i in range(40)
    ]
    write_jsonl(run / "stages" / "evaluate" / "records.jsonl", answers)
    return run


@pytest.mark.parametrize("make", [partial_run, finished_run])
def test_page_is_sound_self_contained_and_escaped(make: object, tmp_path: Path) -> None:
    page = write_report(make(tmp_path / "run")).read_text()  # type: ignore[operator]
    outline = Outline(page)
    assert outline.open == [] and outline.fetched == []
    assert "script" not in outline.tags and "http" not in page and "url(" not in page
    assert any(EVIL in text for text in outline.texts)


def test_partial_run_says_so(tmp_path: Path) -> None:
    page = write_report(partial_run(tmp_path / "run")).read_text()
    assert "not finished: 0 of 3 stages" in page and "seed 7" in page
    assert "not started" in page and "<h2>Comparison" not in page
    # the first and the last answer, where there are two
    assert "again1" in page and "again9" in page and "again5" not in page and "once1" not in page


def test_finished_run_shows_its_figures(tmp_path: Path) -> None:
    page = write_report(finished_run(tmp_path / "run")).read_text()
    assert "(0.400 to 0.600)" in page and "[0.050, 0.190]" in page and "peak memory 3.0 GiB" in page
    assert "generate 3 s (75%)" in page and "12.5" in page and "8.50" in page
    assert len(re.findall('class="prompt">prompt', page)) == 8
    assert "sft35" in page and "ppo35" in page


def test_finished_run_shows_its_profiles_and_its_evolution(tmp_path: Path) -> None:
    page = write_report(finished_run(tmp_path / "run")).read_text()
    assert "<h2>Methods by profiles</h2>" in page and ">P1A+P2B</th>" in page and ">0.625</td>" in page
    assert "<h2>Methods by criteria</h2>" in page and ">P2B</th>" in page and ">87.5</td>" in page
    assert "<h2>Evolved prompts</h2>" in page and "<td>evolve</td><td>30 of 40</td>" in page


def test_a_reward_model_at_chance_is_said_before_what_rests_on_it(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    best_of = {"reward": [{"source": "stage:rm"}]}
    stages = {"rm": {"kind": "train"}, "ppo": {"kind": "train", "reward": "stage:rm"}}
    stages["test"] = {"kind": "generate", "best_of": best_of}  # type: ignore[dict-item]
    (run / "job.yaml").write_text(json.dumps({"name": "doubted", "stages": stages}))
    accuracy = {"name": "rm", "metric": "reward_accuracy", "mean": 0.52, "low": 0.45, "high": 0.59, "n": 200}
    write_summary(run / "summary.json", [accuracy, *WIN_RATES], [], [])
    page = write_report(run).read_text()
    words = "rm orders 52% of the held-out pairs as annotated (45% to 59%), which may be chance."
    assert f"{words} The results of ppo, test depend on it and may be meaningless." in page
    assert page.index("<h2>") == page.index("<h2>Warnings") < page.index(words) < page.index("<h2>Win rates by judge")
    assert "<h2>Warnings" not in write_report(finished_run(tmp_path / "other")).read_text()


def test_empty_folder_makes_a_page(tmp_path: Path) -> None:
    assert "not finished: 0 of 0 stages" in write_report(tmp_path).read_text()


def test_numbers() -> None:
    values = [None, 0.0, 3.0, 0.05, -0.0123, 2.345, 12345.6, 2e-5, 256]
    assert [number(v) for v in values] == ["–", "0", "3", "0.050", "−0.012", "2.35", "12,346", "2e−05", "256"]


def test_forest_places_intervals_around_zero() -> None:
    row = {"label": "a − b", "mean": 1.0, "low": 0.0, "high": 2.0}
    svg = forest([row, {"label": "c", "mean": None, "low": None, "high": None}])
    # the reach is 1.1 times the largest bound, 2
    assert 'class="dot" style="left:72.73%"' in svg and svg.count('class="dot"') == 1
    assert "left:50.00%;right:calc(100% - 95.45%)" in svg


def test_a_difference_is_coloured_by_the_direction_of_its_metric() -> None:
    row = {"label": "a − b", "mean": 2.0, "low": 1.0, "high": 3.0}
    assert 'class="track better"' in forest([row]) and 'class="track worse"' in forest([row], better="lower")
