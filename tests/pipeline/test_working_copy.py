"""A run whose output is a URL; `file://` stands for a store, which tests/storage/test_remote.py has on S3 as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import LoadedJob
from rayalign.errors import ActorError, InputError, RayalignError
from rayalign.models.catalogue import model_path, shape_of, url_folder
from rayalign.pipeline.hashing import stage_hashes, stage_states
from rayalign.pipeline.url_models import fetch_models
from rayalign.pipeline.working_copy import working_copy
from rayalign.storage.remote import RemoteFolder
from rayalign.storage.summary import write_done

Study = Callable[..., LoadedJob]


@pytest.fixture
def job(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedJob:
    """A study that writes to a URL; each start of it has a folder for working copies of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("RAYALIGN_WORK", str(tmp_path / "work"))
    return study(f"output=file://{tmp_path}/store")


def test_a_run_elsewhere_goes_on_from_what_is_there(job: LoadedJob, tmp_path: Path) -> None:
    with working_copy(job) as first:
        stage = Path(first.job.output) / "study" / "stages" / "base"
        stage.mkdir(parents=True)
        (stage / "weights").write_text("trained")
        write_done(stage, stage_hashes(first.job)["base"])
    assert list((tmp_path / "work").iterdir()) == []
    with working_copy(job) as second:
        assert second.job.output != first.job.output
        states = stage_states(second.job)
        assert (states["base"], states["sft"]) == ("finished", "will run: never ran")
        assert (Path(second.job.output) / "study" / "stages" / "base" / "weights").read_text() == "trained"


def test_what_a_run_has_when_it_fails_is_there_too(job: LoadedJob, tmp_path: Path) -> None:
    with pytest.raises(ActorError), working_copy(job) as local:
        folder = Path(local.job.output) / "study"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events.jsonl").write_text("{}\n")
        raise ActorError("policy died")
    assert (tmp_path / "store" / "study" / "events.jsonl").read_text() == "{}\n"
    assert list((tmp_path / "work").iterdir()) == []


def test_a_copy_that_could_not_be_sent_is_kept(job: LoadedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RemoteFolder, folder: Path) -> int:
        raise RayalignError("the store is full")

    with (
        pytest.raises(RayalignError, match="the store is full; the run's folder is kept in"),
        working_copy(job) as local,
    ):
        folder = Path(local.job.output) / "study"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events.jsonl").write_text("{}\n")
        monkeypatch.setattr(RemoteFolder, "upload", refuse)
    assert (folder / "events.jsonl").read_text() == "{}\n"


def test_a_place_that_cannot_be_written_is_refused_before_anything_starts(study: Study, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    loaded = study(f"output=file://{tmp_path}/store")
    with pytest.raises(InputError, match=r"command line: output: file://.* cannot be written"), working_copy(loaded):
        raise AssertionError("nothing starts")


def test_a_local_output_is_left_alone(study: Study) -> None:
    loaded = study()
    with working_copy(loaded) as same:
        assert same is loaded


def test_a_model_at_a_url_is_fetched_once(
    study: Study, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYALIGN_CACHE", str(tmp_path / "cache"))
    url = f"file://{model}"
    loaded = study(f"stages.sft.model={url}")
    assert shape_of(url) is None, "nothing is known of it yet"
    fetch_models(loaded)
    assert shape_of(url) == shape_of(model)
    assert model_path(url) == str(url_folder(url)) and (url_folder(url) / "model.safetensors").is_file()
    assert model_path("http://judge/#careful") == "http://judge/#careful", "an annotator's address is no model"
    monkeypatch.setattr(RemoteFolder, "download", None)
    fetch_models(loaded)


def test_a_url_without_a_model_is_refused(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nothing").mkdir()
    loaded = study(f"stages.sft.model=file://{tmp_path}/nothing")
    with pytest.raises(InputError, match=r"command line: stages\.sft\.model: file://.* holds no model: there is no"):
        fetch_models(loaded)


def test_a_model_that_may_not_be_read_is_refused_with_its_key(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RemoteFolder, folder: Path) -> int:
        raise RayalignError(f"{self.url} did not take or give a file: ACCESS_DENIED")

    monkeypatch.setattr(RemoteFolder, "download", refuse)
    loaded = study("stages.sft.model=file:///models/one")
    with pytest.raises(
        InputError, match=r"command line: stages\.sft\.model: file:///models/one did not .* ACCESS_DENIED"
    ):
        fetch_models(loaded)
