"""The literals were computed with alpaca_eval 0.6.6."""

from __future__ import annotations

import pytest

from rayalign.annotator.judges.sampling import annotator_for, batches, is_switched, noisy_label
from rayalign.errors import InputError

TEXTS = ("2+2", "2+3", "What is the capital of France?", "Héllo", "", "Write a haiku about rain.", "Name three primes.")


@pytest.mark.parametrize("seed,names", [(0, "yyxzzxz"), (1, "zxxyyyz")])
def test_annotators_are_drawn_as_published(seed: int, names: str) -> None:
    assert "".join(annotator_for(["x", "y", "z"], text, seed) for text in TEXTS) == names


@pytest.mark.parametrize("seed,switched", [(0, "0101001"), (1, "1000010")])
def test_orders_are_switched_as_published(seed: int, switched: str) -> None:
    assert "".join(str(int(is_switched(text, seed))) for text in TEXTS) == switched


@pytest.mark.parametrize(
    "seed,labels",
    [(0, [2.0, None, 1.0, None, 1.0, None, 1.0]), (1, [2.0, None, 1.0, 2.0, 1.0, 2.0, None])],
)
def test_labels_are_noised_as_published(seed: int, labels: list[float | None]) -> None:
    assert [noisy_label(text, seed, 0.25) for text in TEXTS] == labels


def test_noise_has_its_share() -> None:
    drawn = [noisy_label(str(i), 0, 0.1) for i in range(4000)]
    # 10% each; two standard deviations are 0.95 points
    assert [drawn.count(label) / 4000 for label in (1.0, 2.0)] == pytest.approx([0.1, 0.1], abs=0.015)
    assert noisy_label("2+2", 0, 0.0) is None
    with pytest.raises(InputError, match="between 0 and 0.5"):
        noisy_label("2+2", 0, 0.6)


def test_batches_are_padded_then_shuffled_as_published() -> None:
    assert batches(7, 5, 0) == [[2, None, 4, None, 1], [6, None, 3, 0, 5]]
    assert batches(3, 2, 1) == [[None, 2], [0, 1]]
    assert batches(0, 5, 0) == []
