"""The profile that a request names: weights of preferences, checked against the registry and the served adapters.

model: base                                  the base alone
model: base, weights: {P1A: 0.5, P2B: 0.3}   those weights as they are
model: P1A+P2B*0.5                           a profile by its name; its weights are divided by their sum
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from rayalign.config import Profile, Registry, nearest
from rayalign.errors import InputError

BASE = "base"
"""the model without an adapter"""
LISTED = 256
"""profiles that the list of models names at most; any other one can be requested too"""


class UnknownModel(InputError):
    """A request names a model that is not served."""


class Profiles:
    """Profiles of the preferences that have an adapter."""

    def __init__(self, registry: Registry, adapters: Collection[str]) -> None:
        self._registry = registry
        self._served = registry.only(adapters)

    def names(self) -> list[str]:
        """What the field `model` takes: the base, each preference, and a pole of each dimension where they are few."""
        names = [BASE, *self._served]
        poles = [len(self._served.poles(dimension, extra=True)) for dimension in self._served.dimensions]
        if len(poles) > 1 and math.prod(poles) <= LISTED:
            names += [str(profile) for profile in self._served.combinations(extra=True)]
        return names

    def requested(self, model: str, weights: Mapping[str, float] | None) -> Profile:
        """The weights of a merge; an empty profile for the base.

        Raises:
            UnknownModel: no such model is served.
            InputError: weights that do not fit: unknown names, all zero, not positive, or preferences that conflict.
        """
        if model == BASE:
            return Profile() if weights is None else self._weighted(weights)
        if weights is not None:
            raise InputError(f"weights: they go with the model `{BASE}`; {model!r} has weights of its own")
        return self._named(model)

    def _weighted(self, weights: Mapping[str, float]) -> Profile:
        self._refuse_unserved(weights)
        present = {name: weight for name, weight in weights.items() if weight != 0.0}
        if not present:
            raise InputError(f"weights: all are zero; give one that is not, or leave them out for the `{BASE}` alone")
        try:
            return self._registry.profile(present)
        except InputError as error:
            raise InputError(f"weights: {error}") from error

    def _named(self, model: str) -> Profile:
        ids = [term.partition("*")[0].strip() for term in model.split("+")]
        for name in ids:
            if name not in self._served:
                raise UnknownModel(f"there is no model {model!r}: {self._unserved(name)}")
        profile = self._registry.profile(model)
        total = sum(weight for _, weight in profile)
        return Profile((name, weight / total) for name, weight in profile)

    def _refuse_unserved(self, names: Collection[str]) -> None:
        for name in names:
            if name not in self._served:
                raise InputError(f"weights: {self._unserved(name)}")

    def _unserved(self, name: str) -> str:
        if not self._served:
            return f"no adapters are served, only the `{BASE}`"
        if name in self._registry:
            return f"no adapter is served for {name}; served: {', '.join(self._served)}"
        return f"there is no preference {name!r}; {nearest(name, list(self._served), 'served:')}"
