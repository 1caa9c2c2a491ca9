"""Which prompts are taken for evolving: weighted, greedy or stratified, without repetition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayalign.config import SelectionKind
from rayalign.errors import InputError

Array = npt.NDArray[np.float64]
STRATA = 10
"""quantile bins of the stratified kind"""


def select(weights_P: npt.ArrayLike, count: int, *, kind: SelectionKind, seed: int) -> npt.NDArray[np.int64]:
    """Places of `count` prompts, in rising order.

    - `weighted`: drawn by their weights.
    - `greedy`: the highest weights; the earlier of equal ones.
    - `stratified`: equally many from each tenth of the prompts by weight, each drawn evenly.

    A prompt of weight 0 is taken only by the stratified kind, which covers the whole range.

    Raises:
        InputError: fewer prompts than `count`, or fewer with a weight where the kind needs one.
    """
    weights = np.asarray(weights_P, dtype=np.float64)
    with_weight = int((weights > 0).sum())
    most = len(weights) if kind == "stratified" else with_weight
    if count > most:
        reason = f"{with_weight} of them have a weight" if kind != "stratified" else "take fewer"
        raise InputError(f"selection: {count} prompts of {len(weights)} cannot be taken: {reason}")
    generator = np.random.default_rng(seed)
    if kind == "greedy":
        places = np.argsort(-weights, kind="stable")[:count]
    elif kind == "weighted":
        places = _weighted(weights, count, generator)
    else:
        places = _stratified(weights, count, generator)
    return np.sort(places).astype(np.int64)


def _weighted(weights_P: Array, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Drawing one after another by weight is taking the largest of log weight + Gumbel noise (Kool 2019)."""
    with np.errstate(divide="ignore"):
        keys_P = np.log(weights_P) + generator.gumbel(size=len(weights_P))
    return np.argpartition(-keys_P, count - 1)[:count] if count else np.array([], dtype=np.int64)


def _stratified(weights_P: Array, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """A tenth of `count` from each bin; what is left over goes to the bins of the highest weights."""
    order_P = np.argsort(weights_P, kind="stable")
    bins = np.array_split(order_P, min(STRATA, len(order_P)))
    shares = np.full(len(bins), count // len(bins))
    left_over = count - shares.sum()
    if left_over:
        shares[-left_over:] += 1
    sizes = np.array([len(places) for places in bins])
    missing = int((shares - sizes).clip(min=0).sum())
    shares = np.minimum(shares, sizes)
    for place in reversed(range(len(bins))):
        extra = min(missing, int(sizes[place] - shares[place]))
        shares[place] += extra
        missing -= extra
    drawn = [generator.choice(places, share, replace=False) for places, share in zip(bins, shares, strict=True)]
    return np.concatenate(drawn)
