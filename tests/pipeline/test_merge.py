"""The stage that adds up models, which needs no cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayalign.config import LoadedJob, LoraConfig, MergeStage
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import InputError
from rayalign.models.adapter_output import save_adapter
from rayalign.models.load import make_preset
from rayalign.pipeline.checks import check
from rayalign.pipeline.hashing import stage_fields
from rayalign.pipeline.plan import plan
from rayalign.pipeline.runner import run

Study = Callable[..., LoadedJob]
MERGED = """\
name: soup
stages:
  merged: {kind: merge, models: {FOLDER/a: 0.7, FOLDER/b: 0.5, FOLDER/c: -0.2}}
"""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Models `a`, `b` and `c` of one architecture."""
    make_preset("nano", build_tokenizer(), 0, tmp_path / "a")
    weights = load_file(tmp_path / "a" / "model.safetensors")
    for seed, name in enumerate(("b", "c")):
        (tmp_path / name).mkdir()
        for file in (tmp_path / "a").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        generator = torch.Generator().manual_seed(seed)
        noise = {key: torch.randn(value.shape, generator=generator) for key, value in weights.items()}
        save_file(noise, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_a_run_adds_up_the_models_by_their_weights(study: Study, folders: Path) -> None:
    loaded = study(text=MERGED.replace("FOLDER", str(folders)))
    check(loaded)
    target = run(loaded) / "stages" / "merged" / "model"
    a, b, c = (load_file(folders / name / "model.safetensors") for name in "abc")
    merged = load_file(target / "model.safetensors")
    assert merged.keys() == a.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.7 * a[name] + 0.5 * b[name] - 0.2 * c[name])
    assert (target / "tokenizer.json").is_file()


def test_a_sum_that_cannot_be_opened_is_no_result(study: Study, folders: Path) -> None:
    for name in "abc":
        file = folders / name / "model.safetensors"
        weights = load_file(file)
        del weights["model.norm.weight"]
        save_file(weights, file, metadata={"format": "pt"})
    loaded = study(text=MERGED.replace("FOLDER", str(folders)))
    with pytest.raises(InputError, match=r"cannot be opened again: model\.norm\.weight is missing"):
        run(loaded)
    assert not list(folders.rglob("done.json"))


def test_a_sum_of_adapters_that_cannot_be_opened_is_no_result(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {f"base_model.model.q_proj.lora_{key}.weight": torch.ones(2, 2) for key in "AB"}
    for name in "ab":
        save_adapter(tmp_path / name, tensors, LoraConfig(rank=2, targets=("q_proj",)), base="own/base", head="causal")
    loaded = study(text=f"name: soup\nstages:\n  merged: {{kind: merge, models: [{tmp_path}/a, {tmp_path}/b]}}\n")
    monkeypatch.setattr("rayalign.models.adapter_sums.write_tensors", lambda path, *_: path.write_bytes(b""))
    with pytest.raises(InputError, match=r"was written but cannot be opened again .*adapter_model\.safetensors"):
        run(loaded)
    assert not list(tmp_path.rglob("done.json"))
    monkeypatch.undo()
    assert (run(loaded) / "stages" / "merged" / "done.json").is_file()


def test_a_list_of_models_has_a_list_of_weights_or_equal_ones(study: Study) -> None:
    same = study("stages.soup={kind: merge, models: {stage:sft: 2, stage:rl: -1}}").job.stages["soup"]
    assert (
        same == study("stages.soup={kind: merge, models: [stage:sft, stage:rl], weights: [2, -1]}").job.stages["soup"]
    )
    equal = study("stages.soup={kind: merge, models: [stage:sft, stage:rl]}").job.stages["soup"]
    assert isinstance(equal, MergeStage)
    assert equal.shares == (0.5, 0.5)


def test_the_models_that_are_merged_count(study: Study) -> None:
    soup = "stages.soup={kind: merge, models: {stage:sft: 0.5, stage:rl: 0.5}}"
    before, after = (stage_fields(study(soup, *more).job)["soup"] for more in ((), ("stages.rl.iterations=20",)))
    assert before["input.sft"] == after["input.sft"]
    assert before["input.rl"] != after["input.rl"]


def test_the_plan_shows_the_sum_and_counts_two_shards(study: Study) -> None:
    loaded = study("stages.soup={kind: merge, models: {stage:sft: 1.5, stage:rl: -0.5}}")
    check(loaded)
    (stage,) = [stage for stage in plan(loaded.job).stages if stage.name == "soup"]
    assert (stage.batch, stage.roles) == ("+1.5 x stage:sft -0.5 x stage:rl", ())
    assert stage.driver_memory == 2 * 4 * 984_192


def test_what_was_merged_stands_where_its_models_may(study: Study) -> None:
    language = "stages.soup={kind: merge, models: [stage:sft, stage:rl]}"
    check(study(language, "stages.more={kind: generate, model: stage:soup}"))
    reward = "stages.soup={kind: merge, models: [stage:rm]}"
    with pytest.raises(InputError, match="stages.more.model: stage:soup makes a reward model; expected a stage that"):
        check(study(reward, "stages.more={kind: generate, model: stage:soup}"))


def test_the_adapters_of_two_stages_make_an_adapter(study: Study) -> None:
    lora = ("stages.sft.learner.lora={rank: 4}", "stages.rl.learner.lora={rank: 4}")
    soup = "stages.soup={kind: merge, models: [stage:sft/adapter, stage:rl/adapter], mode: factor}"
    check(study(*lora, soup))
    with pytest.raises(
        InputError, match=r"more\.model: stage:soup makes an adapter; expected a stage that makes a lang"
    ):
        check(study(*lora, soup, "stages.more={kind: generate, model: stage:soup}"))
    with pytest.raises(InputError, match=r"soup\.models\.1: stage rl makes no adapter; it makes: policy, critic"):
        check(study(lora[0], soup))


@pytest.mark.parametrize(
    ("soup", "message"),
    [
        ("models: [stage:sft, stage:rl], weights: [1]", "weights: 1 weights do not fit 2 models; give one for each"),
        ("models: [stage:sft, stage:gone]", "models.1: there is no stage 'gone'; known: base, sft"),
        (
            "models: [stage:draws]",
            "models.0: stage:draws makes candidates; expected a stage that makes a language model",
        ),
        ("models: [stage:sft], rank: 4", "rank: only the sum of adapters has a rank to reduce; leave it out"),
        (
            "models: [stage:sft], mode: delta",
            "models.0: stage:sft makes a language model; expected a stage that makes an",
        ),
        (
            "models: [someone/a], mode: factor, rank: 4",
            "rank: mode factor keeps the rank of the adapters; leave it out",
        ),
    ],
)
def test_a_wrong_sum_is_refused_in_one_sentence(study: Study, soup: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        check(study(f"stages.soup={{kind: merge, {soup}}}"))
    (line,) = str(error.value).splitlines()
    assert f"stages.soup.{message}" in line


@pytest.mark.parametrize(
    ("soup", "message"),
    [
        ("models: []", "stages.soup.models is []; expected at least 1 of them"),
        ("models: {a: .nan}", "stages.soup.weights.0 is nan; expected a finite number"),
        ("models: {a: much}", "stages.soup.weights.0 is 'much'; expected"),
        ("models: {a: 1}, weights: [2]", "stages.soup is refused: models is a mapping of weights already"),
    ],
)
def test_a_wrong_section_is_refused_on_loading(study: Study, soup: str, message: str) -> None:
    with pytest.raises(InputError, match="command line: ") as error:
        study(f"stages.soup={{kind: merge, {soup}}}")
    assert message in str(error.value)


def test_a_sum_of_adapters_becomes_a_model_with_its_base(study: Study, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_preset("nano", build_tokenizer(), 0, base)
    before = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    outputs, inputs = before[f"{name}.weight"].shape
    for label, value in (("a", 1.0), ("b", -3.0)):
        factors = {"A": torch.full((1, inputs), value), "B": torch.ones(outputs, 1)}
        tensors = {f"base_model.model.{name}.lora_{key}.weight": factor for key, factor in factors.items()}
        config = LoraConfig(rank=1, alpha=1.0, targets=("q_proj",))
        save_adapter(tmp_path / label, tensors, config, base=str(base), head="causal")
    text = (
        "name: soup\nstages:\n  merged: {kind: merge, base: FOLDER/base, mode: delta, models: [FOLDER/a, FOLDER/b]}\n"
        "  again: {kind: merge, models: [stage:merged, FOLDER/base]}\n"
    )
    loaded = study(text=text.replace("FOLDER", str(tmp_path)))
    check(loaded)
    target = run(loaded) / "stages" / "merged" / "model"
    after = load_file(target / "model.safetensors")
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] - 1.0)
    assert (target / "adapter" / "adapter_config.json").is_file()


def test_only_adapters_have_a_base(study: Study, folders: Path) -> None:
    text = MERGED.replace("FOLDER", str(folders)).replace("kind: merge", f"kind: merge, base: {folders}/a")
    with pytest.raises(InputError, match="base: only the sum of adapters is added to a model"):
        check(study(text=text))
