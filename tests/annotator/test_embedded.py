from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from statistics import mean

import pytest
import yaml

from rayalign.annotator.judges.utility import RubricUtilities, UtilityJudge
from rayalign.annotator.pool.build import build_pool
from rayalign.config import AnnotatorConfig, HumanConfig, RubricJudgeConfig, ServiceConfig
from rayalign.data.paddock.demonstrations import demonstration_pairs


def pool() -> ServiceConfig:
    return ServiceConfig.model_validate(
        yaml.safe_load(files("rayalign.annotator").joinpath("embedded.yaml").read_text())
    )


def test_it_is_a_service_with_a_yardstick_and_a_noisy_pool() -> None:
    config = pool()
    assert config.port == ServiceConfig.model_validate({"annotators": config.annotators}).port
    assert len(config.annotators) == 10
    gold = config.annotators["gold"]
    assert gold.human is None and not gold.pooled and gold.judge == RubricJudgeConfig(kind="rubric")
    unpooled = [name for name, annotator in config.annotators.items() if not annotator.pooled]
    assert unpooled == ["gold", "criterion", "panel"]
    assert all(annotator.people for name, annotator in config.annotators.items() if name != "gold")


def test_the_panel_has_the_people_of_the_pool_without_their_flips() -> None:
    annotators = pool().annotators
    people = []
    for name in ("careful", "crowd", "hasty", "wordy", "unsure"):
        (human,) = annotators[name].people
        people.append(human.model_copy(update={"flip": 0.0}))
    assert list(annotators["panel"].humans) == people


def test_the_seed_of_a_request_counts_where_one_of_several_people_is_drawn(tmp_path: Path) -> None:
    built = build_pool(pool().model_copy(update={"cache": f"sqlite:///{tmp_path / 'verdicts.db'}"}))
    assert built.annotator("panel").seeded and not built.annotator("crowd").seeded
    assert built.annotator("panel").scoring is None


def test_one_person_and_several_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        AnnotatorConfig(judge=RubricJudgeConfig(kind="rubric"), human=HumanConfig(), humans=(HumanConfig(),))


def test_one_draw_of_the_pool_agrees_with_the_truth_as_people_agree() -> None:
    pairs = demonstration_pairs(0, 400)
    said: dict[str, list[float | None]] = {}
    for name, annotator in pool().annotators.items():
        assert isinstance(annotator.judge, RubricJudgeConfig)
        judge = UtilityJudge(RubricUtilities(annotator.judge.criteria), annotator.people, name)
        said[name] = [v.preference for v in asyncio.run(judge.judge(pairs, seed=0))]
    gold = said.pop("gold")
    agreement = {
        name: 100 * mean(1 - abs(v - g) for v, g in zip(found, gold, strict=True) if v is not None and g is not None)
        for name, found in said.items()
    }
    assert 66 < mean(agreement.values()) < 75
    assert all(55 < value < 95 for value in agreement.values())
    assert None in said["unsure"] and 1.5 in said["careful"]
