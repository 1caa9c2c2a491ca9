from __future__ import annotations

import pytest

from rayalign.cluster.ledger import DeviceLedger
from rayalign.errors import CapacityError

GIB = 1 << 30


def test_claims_add_up_and_are_given_back() -> None:
    ledger = DeviceLedger({"gpu:0": 10 * GIB, "gpu:1": 10 * GIB})
    ledger.claim("gpu:0", "policy", 6 * GIB)
    ledger.claim("gpu:0", "policy", 1 * GIB)
    ledger.claim("gpu:1", "generator", 10 * GIB)
    assert (ledger.free("gpu:0"), ledger.free("gpu:1")) == (3 * GIB, 0)
    ledger.release("gpu:0", "policy")
    assert ledger.free("gpu:0") == 10 * GIB


def test_what_does_not_fit_is_refused_with_the_holders_and_changes_nothing() -> None:
    ledger = DeviceLedger({"gpu:0": 10 * GIB})
    ledger.claim("gpu:0", "policy", 7 * GIB)
    with pytest.raises(
        CapacityError, match=r"generator needs 4\.00 GiB of gpu:0, which has 3\.00 GiB of 10\.00 .*policy 7\.00 GiB"
    ):
        ledger.claim("gpu:0", "generator", 4 * GIB)
    assert ledger.free("gpu:0") == 3 * GIB
    ledger.claim("gpu:0", "generator", 3 * GIB)
