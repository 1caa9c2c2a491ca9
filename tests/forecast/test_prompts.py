from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import DataConfig, load_job
from rayalign.forecast.calibration import Calibration, Record
from rayalign.forecast.prompts import has_tokenizer, prompt_lengths
from rayalign.forecast.timing import length_range
from tests.forecast.conftest import JobOf
from tests.forecast.test_measured import JOB


def test_prompts_at_hand_are_read_with_their_own_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    lengths = prompt_lengths(load_job(path, [f"output={tmp_path}", "stages.ppo.data.limit=40"]))
    assert lengths.keys() == {"ppo"}
    assert 8 <= lengths["ppo"] <= 24  # of the embedded world


def test_a_hub_is_not_asked_for_a_tokenizer(job_of: JobOf) -> None:
    assert not has_tokenizer(job_of(), "Qwen/Qwen2.5-0.5B")
    assert has_tokenizer(job_of("stages.base={kind: pretrain}"), "stage:base")


def test_lengths_without_a_measurement_have_the_room_as_their_range(job_of: JobOf) -> None:
    lengths = length_range(job_of(), DataConfig(path="some/hub"), 256, Calibration([]))
    assert (lengths.low.prompt, lengths.middle.prompt, lengths.high.prompt) == (64, 128, 256)
    assert (lengths.low.answer, lengths.middle.answer, lengths.high.answer) == (64, 128, 256)
    assert lengths.source == "prompts of 64 to 256 tokens, as there is room, answers of 64 to 256, as there is room"


@pytest.mark.parametrize(("max_tokens", "longest"), [(256, 30), (25, 25)])
def test_measured_answers_are_no_longer_than_allowed(job_of: JobOf, max_tokens: int, longest: int) -> None:
    records = []
    for answer in (10.0, 30.0):
        records.append(
            Record(
                device="x",
                phase="update",
                share=0.5,
                parameters=1,
                actors=1,
                prompt=12,
                answer=answer,
                data="paddock",
                source="run",
            )  # fmt: skip
        )
    lengths = length_range(job_of(), DataConfig(), max_tokens, Calibration(records), prompt=15.0)
    assert (lengths.low.answer, lengths.high.answer) == (10, longest)
    assert lengths.low.prompt == lengths.high.prompt == 15
    assert ", as read, answers of 10 to " in lengths.source
