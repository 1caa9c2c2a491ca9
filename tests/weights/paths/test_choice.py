from __future__ import annotations

import pytest

from rayalign.errors import InputError
from rayalign.weights.paths.choice import Site, choose_path

CPU = Site("10.0.0.1", ())
GPU0, GPU1, GPU2 = (Site("10.0.0.1", (index,)) for index in "012")
OTHER_GPU0 = Site("10.0.0.2", ("0",))
PAIR = Site("10.0.0.1", ("0", "1"))


@pytest.mark.parametrize(
    ("trainer", "engines", "path"),
    [
        ([CPU], [CPU], "store"),
        ([GPU0], [CPU], "store"),
        ([CPU], [GPU0], "store"),
        ([GPU0], [GPU1, GPU2], "nccl"),
        ([GPU0], [OTHER_GPU0], "nccl"),
        ([GPU0, GPU1], [GPU0, GPU1], "ipc"),
        ([GPU0, GPU1], [PAIR], "ipc"),
        ([GPU0], [PAIR], "store"),
        ([GPU0, GPU1], [GPU1, GPU2], "store"),
    ],
)
def test_the_sites_decide(trainer: list[Site], engines: list[Site], path: str) -> None:
    assert choose_path("auto", trainer, engines, vllm=True)[0] == path


def test_other_engines_read_from_the_store() -> None:
    assert choose_path("auto", [GPU0], [GPU1], vllm=False) == ("store", "the engines are not vLLM's")


@pytest.mark.parametrize("path", ["store", "files", "mine"])
def test_a_path_through_the_host_can_always_be_named(path: str) -> None:
    assert choose_path(path, [GPU0], [GPU1], vllm=True) == (path, "named by the job")  # type: ignore[arg-type]


def test_a_named_device_path_that_fits_is_taken() -> None:
    assert choose_path("nccl", [GPU0], [GPU1], vllm=True) == ("nccl", "named by the job")


@pytest.mark.parametrize(
    ("path", "trainer", "engines", "reason"),
    [
        ("nccl", [CPU], [CPU], "trainer and engines are not all on CUDA devices"),
        ("nccl", [GPU0], [GPU0], "every engine shares its devices with the trainer"),
        ("ipc", [GPU0], [GPU1], "trainer and engines are on devices of their own"),
        ("ipc", [GPU0], [PAIR], "only some engines share their devices with the trainer"),
    ],
)
def test_a_named_device_path_that_does_not_fit_is_refused(
    path: str, trainer: list[Site], engines: list[Site], reason: str
) -> None:
    with pytest.raises(InputError, match=f"rollout.weights is {path}, but {reason}; write rollout.weights: auto"):
        choose_path(path, trainer, engines, vllm=True)  # type: ignore[arg-type]
