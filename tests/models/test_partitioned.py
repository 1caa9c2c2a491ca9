"""Models that are partitioned while they are loaded hold the same numbers."""

from __future__ import annotations

from pathlib import Path

import deepspeed
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rayalign.config import LearnerConfig
from rayalign.errors import InputError
from rayalign.models.load import load_causal, load_scalar
from rayalign.models.partitioned import Partition
from rayalign.models.process_group import meet
from rayalign.models.zero import engine_config


@pytest.fixture(scope="module")
def partition() -> Partition:
    return Partition(0, meet(), engine_config(LearnerConfig(zero_stage=3), stage=3))


def assert_same(partitioned: PreTrainedModel, whole: PreTrainedModel) -> None:
    expected = dict(whole.named_parameters())
    parameters = dict(partitioned.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert parameter.numel() == 0, "a rank holds its own part alone"
        with deepspeed.zero.GatheredParameters([parameter]):
            torch.testing.assert_close(parameter.data, expected[name].data, atol=0, rtol=0)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(partitioned.get_buffer(name), buffer, atol=0, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_language_model(folder: str, partition: Partition, precision: str) -> None:
    config = LearnerConfig(precision=precision)
    assert_same(load_causal(folder, config, partition), load_causal(folder, config))


def test_a_folder_of_several_files_with_tied_embeddings(folder: str, partition: Partition, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same(load_causal(str(tmp_path), LearnerConfig(), partition), load_causal(str(tmp_path), LearnerConfig()))


def test_a_fresh_scalar_head(folder: str, partition: Partition) -> None:
    config = LearnerConfig()
    assert_same(load_scalar(folder, config, 7, "reward", partition), load_scalar(folder, config, 7, "reward"))


def test_a_weight_of_another_shape_is_refused(folder: str, partition: Partition, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model.norm.weight is \(3,\) in its files, not"):
        load_causal(str(tmp_path), LearnerConfig(), partition)
