from __future__ import annotations

import asyncio
from importlib.resources import files
from statistics import mean

import yaml

from rayalign.annotator.judges.utility import RubricUtilities, UtilityJudge
from rayalign.config import RubricJudgeConfig, ServiceConfig
from rayalign.data.paddock.demonstrations import demonstration_pairs


def pool() -> ServiceConfig:
    return ServiceConfig.model_validate(
        yaml.safe_load(files("rayalign.annotator").joinpath("embedded.yaml").read_text())
    )


def test_it_is_a_service_with_a_yardstick_and_a_noisy_pool() -> None:
    config = pool()
    assert config.port == ServiceConfig.model_validate({"annotators": config.annotators}).port
    assert len(config.annotators) == 9
    gold = config.annotators["gold"]
    assert gold.human is None and not gold.pooled and gold.judge == RubricJudgeConfig(kind="rubric")
    unpooled = [name for name, annotator in config.annotators.items() if not annotator.pooled]
    assert unpooled == ["gold", "criterion"]
    assert all(annotator.human is not None for name, annotator in config.annotators.items() if name != "gold")


def test_one_draw_of_the_pool_agrees_with_the_truth_as_people_agree() -> None:
    pairs = demonstration_pairs(0, 400)
    said: dict[str, list[float | None]] = {}
    for name, annotator in pool().annotators.items():
        assert isinstance(annotator.judge, RubricJudgeConfig)
        judge = UtilityJudge(RubricUtilities(annotator.judge.criteria), annotator.human, name)
        said[name] = [v.preference for v in asyncio.run(judge.judge(pairs, seed=0))]
    gold = said.pop("gold")
    agreement = {
        name: 100 * mean(1 - abs(v - g) for v, g in zip(found, gold, strict=True) if v is not None and g is not None)
        for name, found in said.items()
    }
    assert 66 < mean(agreement.values()) < 75
    assert all(55 < value < 95 for value in agreement.values())
    assert None in said["unsure"] and 1.5 in said["careful"]
