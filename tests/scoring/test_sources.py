"""What the scorer of each source is made from."""

from __future__ import annotations

from typing import Any

import pytest

from rayalign.config import LearnerConfig, RewardSource
from rayalign.scoring.parts import PartsScorer
from rayalign.scoring.preference import PreferenceScorer
from rayalign.scoring.sources import RewardSpec, make_scorer

CONFIG = LearnerConfig(precision="bf16", micro_tokens=99)
URL = "http://127.0.0.1:1#judge"


class Reader:
    """A reward model that only keeps what it is made from."""

    def __init__(self, model: str, config: LearnerConfig, policy: str, *, spread: bool = False) -> None:
        self.made_from = (model, config, policy, spread)


class Comparer(Reader):
    """As that, of a pairwise one."""


@pytest.fixture(autouse=True)
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayalign.scoring.reward_model.RewardModelScorer", Reader)
    monkeypatch.setattr("rayalign.scoring.pairwise.PairwiseScorer", Comparer)
    monkeypatch.setattr("rayalign.models.configuration.reads_pairs", lambda folder: folder.endswith("pairwise"))


def scorer_of(*sources: dict[str, Any], spread: bool = False) -> Any:
    written = tuple(RewardSource.model_validate(source) for source in sources)
    spec = RewardSpec(written, CONFIG, "someone/policy", timeout=77.0, named=len(sources) > 1)
    return make_scorer(spec, spread=spread)


@pytest.mark.parametrize(("model", "kind"), [("someone/rm", Reader), ("someone/pairwise", Comparer)])
@pytest.mark.parametrize("spread", [False, True])
def test_a_model_is_read_by_the_settings_of_the_stage(model: str, kind: type, spread: bool) -> None:
    scorer = scorer_of({"source": model}, spread=spread)
    assert type(scorer) is kind
    assert scorer.made_from == (model, CONFIG, "someone/policy", spread)


def test_parts_of_one_model_share_it_and_those_for_all_prompts_are_named() -> None:
    scorer = scorer_of(
        {"source": "someone/rm", "preference": "P1A"},
        {"source": "someone/rm", "name": "help", "for_all": True},
    )
    assert isinstance(scorer, PartsScorer) and list(scorer.scorers) == ["P1A", "help"]
    preferred: Any = scorer.scorers["P1A"]
    assert isinstance(preferred, PreferenceScorer) and preferred.scorer is scorer.scorers["help"]
    assert list(scorer._for_all) == ["help"]


def test_an_annotator_has_the_deadline_and_code_the_settings_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayalign.scoring.annotator.AnnotatorScorer", lambda *made_from: made_from)
    monkeypatch.setattr("rayalign.scoring.code.CodeScorer", lambda *made_from: made_from)
    assert scorer_of({"source": URL, "name": "judge"}) == (URL, 77.0)
    code = {"source": f"{__name__}:Reader", "settings": {"word": "so"}}
    assert scorer_of(code) == (f"{__name__}:Reader", {"word": "so"})
