"""What cannot be served is refused at the start, in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import ServedPolicyConfig
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.serving.inputs import PolicyInputs, read_inputs
from tests.serving.adapters import write_adapter


def read(model: str, adapters: Mapping[str, str], **settings: Any) -> PolicyInputs:
    return read_inputs(ServedPolicyConfig(model=model, adapters=dict(adapters), **settings))


@pytest.fixture
def copy(model: str, tmp_path: Path) -> Path:
    """A copy of the base that a test may damage."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


def test_room_is_for_one_preference_of_each_dimension(model: str, adapters: dict[str, str]) -> None:
    inputs = read(model, adapters, merged=8, profiles_at_once=16)
    assert inputs.room is not None
    assert inputs.room.rank == 4 + 6 + 2  # P1A and P1B are of one dimension
    assert inputs.room.targets == ("down_proj", "q_proj", "v_proj")
    assert (inputs.room.at_once, inputs.room.in_memory) == (8, 8)
    assert list(inputs.adapters) == list(adapters) and len(set(inputs.digests.values())) == 4


def test_the_engine_gets_the_models_own_context(model: str) -> None:
    inputs = read(model, {})
    assert inputs.room is None and inputs.engine.dtype == "float32"
    assert inputs.engine.context == json.loads(Path(model, "config.json").read_text())["max_position_embeddings"]
    assert read(model, {}, context=64).engine.context == 64
    with pytest.raises(InputError, match="--context 9000 is more than the"):
        read(model, {}, context=9000)


def test_a_copy_of_the_base_serves_its_adapters(copy: Path, adapters: dict[str, str], model: str) -> None:
    inputs = read(str(copy), adapters)
    assert inputs.base_digest == read(model, {}).base_digest


def test_an_adapter_is_known_by_its_content(model: str, tmp_path: Path) -> None:
    trained = write_adapter(Path(model), tmp_path / "trained", 0)
    before = read(model, {"P1A": str(trained)}).digests["P1A"]
    copied = shutil.copytree(trained, tmp_path / "copied")
    assert read(model, {"P1A": str(copied)}).digests["P1A"] == before
    write_adapter(Path(model), trained, 1)
    assert read(model, {"P1A": str(trained)}).digests["P1A"] != before


def test_adapters_of_another_base_are_refused(model: str, tmp_path: Path) -> None:
    from rayalign.data.paddock.tokenizer import build_tokenizer

    other = tmp_path / "other"
    make_preset("nano", build_tokenizer(), 1, other)
    adapter = write_adapter(other, tmp_path / "a", 0)
    with pytest.raises(InputError, match=f"was trained on {other}, whose weights are not those of"):
        read(model, {"P1A": str(adapter)})


def test_a_base_of_another_shape_is_refused(tmp_path: Path, model: str) -> None:
    from rayalign.data.paddock.tokenizer import build_tokenizer

    other = tmp_path / "other"
    make_preset("pico", build_tokenizer(), 0, other)
    adapter = write_adapter(other, tmp_path / "a", 0)
    with pytest.raises(InputError, match=r"but the adapters move|which the adapters move"):
        read(model, {"P1A": str(adapter)})


def test_adapters_that_name_different_bases_are_refused(model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(adapters["P2B"], tmp_path / "renamed"))
    config = json.loads((renamed / "adapter_config.json").read_text())
    (renamed / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/other"}))
    with pytest.raises(InputError, match="its base_model_name_or_path is 'org/other'"):
        read(model, {"P1A": adapters["P1A"], "P2B": str(renamed)})


def test_other_targets_are_refused(model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    other = write_adapter(Path(model), tmp_path / "other", 0, targets=("q_proj",))
    with pytest.raises(InputError, match="its target_modules is"):
        read(model, {"P1A": adapters["P1A"], "P2B": str(other)})


def test_ranks_that_add_up_to_more_than_vllm_takes_are_refused(model: str, tmp_path: Path) -> None:
    large = [str(write_adapter(Path(model), tmp_path / f"{seed}", seed, rank=260)) for seed in range(2)]
    with pytest.raises(InputError, match="add up to 520, and vLLM takes at most 512; reduce them"):
        read(model, {"P1A": large[0], "P2B": large[1]})
    assert read(model, {"P1A": large[0], "P1B": large[1]}).room is not None


def test_a_module_trained_whole_is_refused(model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = Path(shutil.copytree(adapters["P1A"], tmp_path / "whole"))
    tensors = load_file(whole / "adapter_model.safetensors")
    first = next(iter(tensors.values())).clone()
    save_file({**tensors, "base_model.model.score.weight": first}, whole / "adapter_model.safetensors")
    with pytest.raises(InputError, match="score.weight beside its factors"):
        read(model, {"P1A": str(whole)})


def test_missing_shards_are_refused(copy: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="lacks model-00001-of-00002.safetensors"):
        read(str(copy), {})


def test_an_adapter_without_its_weights_is_refused(model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    empty = Path(shutil.copytree(adapters["P1A"], tmp_path / "empty"))
    (empty / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        read(model, {"P1A": str(empty)})


def test_a_base_without_a_chat_template_is_refused(copy: Path) -> None:
    settings = copy / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(settings.read_text()).items() if key != "chat_template"}
    settings.write_text(json.dumps(kept))
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(InputError, match="has no chat template"):
        read(str(copy), {})


def test_a_reward_model_is_no_policy(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(InputError, match="is a LlamaForSequenceClassification, which writes no answers"):
        read(str(copy), {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P1a", "--adapter P1a: there is no preference of that name; did you mean P1"),
        ("base", "--adapter base: requests name the base so"),
    ],
)
def test_an_adapter_is_named_by_its_preference(model: str, adapters: dict[str, str], name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(model, {name: adapters["P1A"]})


def test_preferences_of_ones_own_may_have_adapters(model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("rhymes: {dimension: rhyme, pole: rhymes, wordings: [Rhyme.], criterion: which rhymes}\n")
    inputs = read(model, {"rhymes": adapters["P1A"], "P2B": adapters["P2B"]}, preferences=str(own))
    assert inputs.room is not None and inputs.room.rank == 10


def test_an_adapter_or_nothing_is_no_base(model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an adapter; name its base"):
        read(adapters["P1A"], {})
    with pytest.raises(InputError, match="neither a folder nor in the Hugging Face cache"):
        read(str(tmp_path / "none"), {})
