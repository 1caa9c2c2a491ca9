"""What is written of an annotation."""

from __future__ import annotations

import pytest

from rayalign.annotator.asking.api import Annotation
from rayalign.annotator.asking.connect import public

ROW = {"instruction": "q", "output_1": "a", "output_2": "b"}


@pytest.mark.parametrize("switched", [True, False])
def test_a_raw_completion_comes_with_the_order_that_it_speaks_of(switched: bool) -> None:
    annotation = Annotation(index=0, annotator="judge", preference=2.0, raw_completion="Output (a)", switched=switched)
    row = public(ROW, annotation)
    assert (row["preference"], row["preference_raw_completion"]) == (2.0, "Output (a)")
    assert row["is_switched_outputs"] is switched


def test_without_a_raw_completion_no_order_is_claimed() -> None:
    assert "is_switched_outputs" not in public(ROW, Annotation(index=0, annotator="judge", preference=2.0))
