"""AlpacaFarm's pool: language models in the file that is shipped, flips in training alone."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import yaml

from rayalign.annotator.asking.connect import connect
from rayalign.annotator.service_file import load_service
from rayalign.config import AnnotateStage, EvaluateStage, LLMJudgeConfig, load_job
from rayalign.types import Message, Prompt
from tests.annotator.stub_endpoint import Stub

ROOT = Path(__file__).parents[2]
FILE = ROOT / "clusters" / "alpacafarm.yaml"


def answer(messages: list[dict[str, str]]) -> str:
    """The first answer is better, in the words that the prompt asks for."""
    prompt = messages[-1]["content"]
    if "JSON" in prompt:
        return '{"explanation": "it is right", "better": 1}'
    if "Python list" in prompt:
        return "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
    return "Output (a)"


def test_every_judge_of_the_shipped_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    settings = load_service(FILE).model_dump(exclude_unset=True)
    settings["cache"] = f"sqlite:///{tmp_path / 'verdicts.db'}"
    file = tmp_path / "alpacafarm.yaml"
    pair = (Prompt("p", (Message("user", "why is the sky blue ?"),)), "one", "another")
    with Stub(says=answer) as stub:
        for annotator in settings["annotators"].values():
            annotator["judge"] |= {"base_url": stub.url, "randomize_order": False}
        file.write_text(yaml.safe_dump(settings))
        for name in settings["annotators"]:
            with closing(connect(str(file), name)) as judge:
                assert judge.compare([pair], seed=0) == [1.0], name


def test_the_shipped_pool_has_no_flips_of_its_own_and_a_second_judge_beside_it() -> None:
    annotators = load_service(FILE).annotators
    pooled = [annotator.judge for annotator in annotators.values() if annotator.pooled]
    assert all(isinstance(judge, LLMJudgeConfig) and judge.temperature == 1.0 for judge in pooled)
    assert all(annotator.human is None for annotator in annotators.values())
    second = annotators["second"].judge
    assert isinstance(second, LLMJudgeConfig) and not annotators["second"].pooled
    assert second.model not in {judge.model for judge in pooled if isinstance(judge, LLMJudgeConfig)}


def test_a_quarter_of_the_training_labels_is_flipped_and_the_evaluation_asks_the_same_pool(tmp_path: Path) -> None:
    stages = load_job(ROOT / "jobs" / "alpacafarm.yaml", [f"output={tmp_path}"]).job.stages
    labels, comparison = stages["labels"], stages["comparison"]
    assert isinstance(labels, AnnotateStage) and isinstance(comparison, EvaluateStage)
    assert (labels.annotator, labels.flip) == ("pool", 0.25)
    assert comparison.judges == ("pool", "second")


@pytest.mark.parametrize("name", ["alpacafarm", "methods"])
def test_no_judge_of_the_small_studies_flips_a_verdict_of_the_evaluation(name: str, tmp_path: Path) -> None:
    stages = load_job(ROOT / "jobs" / "small" / f"{name}.yaml", [f"output={tmp_path}"]).job.stages
    labels, comparison = stages["labels"], stages["comparison"]
    assert isinstance(labels, AnnotateStage) and isinstance(comparison, EvaluateStage)
    annotators = load_service(None).annotators
    assert labels.annotator == "pool" and any(human.flip for human in annotators["crowd"].people)
    assert not any(human.flip for judge in comparison.judges for human in annotators[judge].people)
