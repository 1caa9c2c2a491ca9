"""Records that are cheap to send: the coordinator and its actors exchange thousands of them a second."""

from __future__ import annotations

import copyreg
import pickle
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


def fast_pickle(kind: type[T]) -> type[T]:
    """Have a dataclass of two or more fields pickled as the call that makes it.

    What `dataclasses` gives a frozen class with slots looks up the fields of each object. With all that `pickle` tries
    before it finds that, sending an object takes three times as long, and loading it twice.
    """
    names = kind.__match_args__  # type: ignore[attr-defined]
    values = attrgetter(*names)

    def reduce(record: T) -> tuple[type[T], Any]:
        return kind, values(record)

    copyreg.pickle(kind, reduce)
    return kind


class Packed(list[T]):
    """A list of records that arrives as a plain one, and that Ray sends as one piece.

    Ray's own pickler calls Python for each object, and takes twice as long.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(list(self), pickle.HIGHEST_PROTOCOL),)
