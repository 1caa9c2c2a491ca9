from __future__ import annotations

import pickle

from ray import cloudpickle

from rayalign.pickling import Packed
from rayalign.rollout.base import Finished


def test_packed_records_arrive_as_a_plain_list() -> None:
    records = [Finished("a/0", (1, 2), (-0.1, -1 / 3), ((0, 3),), "stop"), Finished("a/1", failure="no room")]
    arrived = pickle.loads(cloudpickle.dumps(Packed(records)))
    assert (type(arrived), arrived) == (list, records)
