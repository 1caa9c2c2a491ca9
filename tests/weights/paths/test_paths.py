"""What every path does alike, and what each one bounds and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.errors import WeightError
from rayalign.weights.buckets import Bucket
from rayalign.weights.paths.base import Header, PathConfig, WeightPath
from rayalign.weights.paths.files import FileMessage, FilesPath
from rayalign.weights.paths.make import make_path
from rayalign.weights.paths.store import StorePath
from rayalign.weights.sets import WeightSet
from tests.weights.paths.conftest import WAIT, CountingStore, Send, Tensors, read_all

BUCKET = 8 << 10
"""two tensors"""


def path_of(name: Any, folder: Path, store: CountingStore) -> WeightPath:
    config = PathConfig(name=name, timeout=WAIT, folder=str(folder), bucket_bytes=BUCKET)
    path = make_path(config, store.put, store.get)
    path.open()
    return path


@pytest.mark.parametrize("name", ["store", "files"])
def test_every_engine_gets_all_tensors_bit_by_bit(name: str, tmp_path: Path, send: Send, tensors: Tensors) -> None:
    store = CountingStore()
    trainer, *engines = (path_of(name, tmp_path, store) for _ in range(3))
    size, copies = send(trainer, engines, WeightSet("full", 7, tensors.items()), read_all)
    assert size == 10 * 4096
    for copy in copies:
        assert list(copy) == list(tensors)
        assert all(torch.equal(copy[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", ["store", "files"])
def test_the_set_has_the_kind_and_version_of_its_header(
    name: str, tmp_path: Path, send: Send, tensors: Tensors
) -> None:
    store = CountingStore()
    trainer, engine = (path_of(name, tmp_path, store) for _ in range(2))

    def consume(weights: WeightSet) -> Any:
        read_all(weights)
        return weights.kind, weights.version

    _, (answer,) = send(trainer, [engine], WeightSet("adapter", 3, tensors.items()), consume)
    assert answer == ("adapter", 3)


def test_the_store_never_holds_more_than_two_buckets(tmp_path: Path, send: Send, tensors: Tensors) -> None:
    store = CountingStore()
    trainer, *engines = (path_of("store", tmp_path, store) for _ in range(3))
    send(trainer, engines, WeightSet("full", 1, tensors.items()), read_all)
    assert store.puts == 5
    assert store.most == 2
    assert not store.alive


def test_the_trainer_gathers_at_most_two_buckets_ahead_of_the_engines(
    tmp_path: Path, send: Send, tensors: Tensors
) -> None:
    store = CountingStore()
    trainer, engine = (path_of("store", tmp_path, store) for _ in range(2))
    gathered = 0
    leads: list[int] = []

    def gather() -> Any:
        nonlocal gathered
        for item in tensors.items():
            gathered += 1
            yield item

    def consume(weights: WeightSet) -> None:
        for loaded, _ in enumerate(weights.tensors):
            leads.append(gathered - loaded)

    send(trainer, [engine], WeightSet("full", 1, gather()), consume)
    # two buckets of two tensors, and the tensor that showed the second one to be full
    assert max(leads) <= 5


def test_the_folder_never_holds_more_than_two_files_and_is_empty_in_the_end(
    tmp_path: Path, send: Send, tensors: Tensors
) -> None:
    counts: list[int] = []

    def consume(weights: WeightSet) -> None:
        for _ in weights.tensors:
            counts.append(len(list(tmp_path.iterdir())))

    trainer, engine = (path_of("files", tmp_path, CountingStore()) for _ in range(2))
    send(trainer, [engine], WeightSet("full", 1, tensors.items()), consume)
    assert 1 <= max(counts) <= 2
    assert not list(tmp_path.iterdir())


def test_a_rank_without_a_line_reads_all_tensors_and_sends_nothing(tmp_path: Path, tensors: Tensors) -> None:
    for name in ("store", "files"):
        store = CountingStore()
        reads = iter(tensors.items())
        assert path_of(name, tmp_path, store).send(WeightSet("full", 1, reads), None) == 0
        assert next(reads, None) is None
        assert store.puts == 0
    assert not list(tmp_path.iterdir())


def test_a_corrupt_bucket_is_refused_and_the_sender_goes_on(tmp_path: Path, send: Send, tensors: Tensors) -> None:
    """The engine that refuses is left out; it must not hold up the others."""
    store = CountingStore()

    def corrupt(ref: Any) -> Bucket:
        bucket = ref.bucket
        if bucket.index != 1:
            return bucket
        data = tuple(part.copy() for part in bucket.data)
        data[0][17] ^= 1
        return Bucket(bucket.index, bucket.specs, data, bucket.digest)

    config = PathConfig(name="store", timeout=WAIT, bucket_bytes=BUCKET)
    good, bad = (StorePath(config, store.put, get) for get in (store.get, corrupt))
    _, (copy, error) = send(good, [good, bad], WeightSet("full", 1, tensors.items()), read_all)
    assert len(copy) == 10
    assert isinstance(error, WeightError)
    assert "weight bucket 1 (layer.2 .. layer.3" in str(error)


def test_a_changed_file_is_refused(tmp_path: Path, send: Send, tensors: Tensors) -> None:
    trainer = path_of("files", tmp_path, CountingStore())

    class Meddled(FilesPath):
        def receive(self, header: Any, messages: Any) -> WeightSet:
            def meddle() -> Any:
                for message in messages:
                    content = bytearray(Path(message.path).read_bytes())
                    content[-5] ^= 1
                    Path(message.path).write_bytes(content)
                    yield message

            return super().receive(header, meddle())

    engine = Meddled(PathConfig(name="files", timeout=WAIT, folder=str(tmp_path), bucket_bytes=BUCKET))
    _, (error,) = send(trainer, [engine], WeightSet("full", 1, tensors.items()), read_all)
    assert isinstance(error, WeightError) and "arrived with checksum" in str(error)


def test_a_folder_that_the_engine_does_not_see_is_said(tmp_path: Path) -> None:
    engine = path_of("files", tmp_path, CountingStore())
    message = FileMessage(str(tmp_path / "elsewhere.safetensors"), 0, (), 0)
    with pytest.raises(
        WeightError, match="elsewhere.safetensors cannot be read .*both sides must see the run's folder"
    ):
        read_all(engine.receive(Header("full", 1), iter([message])))


def test_what_an_interrupted_transfer_left_is_removed(tmp_path: Path) -> None:
    path = path_of("files", tmp_path, CountingStore())
    (tmp_path / "v3-00000.safetensors").touch()
    path.close()
    assert not list(tmp_path.iterdir())
