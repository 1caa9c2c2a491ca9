"""Which models running engines can take, and what proves that they have them."""

from __future__ import annotations

from pathlib import Path

from rayalign.errors import WeightError
from rayalign.weights import probe
from rayalign.weights.files import fingerprint


def same_shapes(one: str, other: str) -> bool:
    """Whether engines built from one model can load the weights of the other."""
    if one == other:
        return True
    local = Path(one).is_dir() and Path(other).is_dir()
    return local and fingerprint(Path(one)) == fingerprint(Path(other))


def probe_of(model: str) -> probe.Probe | None:
    """The proof that a model carries; None for one from elsewhere."""
    try:
        return probe.load(Path(model))
    except WeightError:
        return None
