"""Preferences by their ids, and profiles: sets of ids with weights (Jang 2023, Personalized Soups, arXiv 2310.11564).

A preference is named by its id alone. Its wordings are renderings of it: nothing is ever matched by them.

    registry   id -> dimension, pole, wordings, criterion        preferences.yaml beside this file, and a user's own
    profile    ids -> weights                                    written as P1A+P2B, P1A+P2B*0.5 or {P1A: 1, P2B: 0.5}
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationError

from rayalign.config.explain import explain, nearest
from rayalign.config.section import Section
from rayalign.errors import InputError

__all__ = ["Preference", "PreferenceUse", "Profile", "Registry", "load_registry", "registry_files"]

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_EMBEDDED = Path(__file__).with_name("preferences.yaml")


class Preference(Section):
    """What a person may want of every answer: one pole of a dimension."""

    dimension: str = Field(min_length=1)
    """two preferences of one dimension conflict"""
    pole: str = Field(min_length=1)
    wordings: tuple[str, ...] = Field(min_length=1)
    """how a prompt may ask for it"""
    criterion: str = Field(min_length=1)
    """what a judge compares two answers by, as the end of a question: which answer is shorter"""
    style: dict[str, str] = {}
    """the constraint of the embedded world that stands for it; empty: for real models alone"""
    extra: bool = False
    """left out of the eight profiles of the original study"""
    conflicts: tuple[str, ...] = ()
    """preferences of other dimensions that cannot stand beside it"""


class Profile(tuple[tuple[str, float], ...]):
    """Ids with their weights, in the order of the registry. `str(profile)` is its one name."""

    __slots__ = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The preferences."""
        return tuple(name for name, _ in self)

    def __str__(self) -> str:
        return "+".join(name if weight == 1.0 else f"{name}*{weight:g}" for name, weight in self)


class Registry(Mapping[str, Preference]):
    """All preferences by their ids, in a fixed order.

    Raises:
        InputError: an id in `conflicts` does not exist.
    """

    def __init__(self, preferences: Mapping[str, Preference]) -> None:
        self._preferences = dict(preferences)
        for name, preference in self._preferences.items():
            for rival in preference.conflicts:
                if rival not in self._preferences:
                    raise InputError(f"preference {name}: conflicts names {rival!r}; {nearest(rival, list(self))}")

    def __getitem__(self, name: str) -> Preference:
        return self._preferences[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._preferences)

    def __len__(self) -> int:
        return len(self._preferences)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions, in the order in which they first occur."""
        return tuple(dict.fromkeys(preference.dimension for preference in self._preferences.values()))

    def poles(self, dimension: str, *, extra: bool = False) -> tuple[str, ...]:
        """The ids of one dimension."""
        return tuple(
            name
            for name, preference in self._preferences.items()
            if preference.dimension == dimension and (extra or not preference.extra)
        )

    def singles(self, *, extra: bool = False) -> tuple[Profile, ...]:
        """Each preference by itself."""
        names = itertools.chain.from_iterable(self.poles(d, extra=extra) for d in self.dimensions)
        return tuple(Profile(((name, 1.0),)) for name in names)

    def combinations(self, *, extra: bool = False) -> tuple[Profile, ...]:
        """One pole of each dimension: 8 profiles of the embedded registry, 16 with the extra styles.

        Combinations that hold a conflict are left out.
        """
        poles = [self.poles(dimension, extra=extra) for dimension in self.dimensions]
        profiles: list[Profile] = []
        for names in itertools.product(*(ids for ids in poles if ids)):
            if not self._conflict(names):
                profiles.append(self.profile(names))
        return tuple(profiles)

    def only(self, names: Collection[str]) -> Registry:
        """The registry of these preferences alone."""
        present: dict[str, Preference] = {}
        for name in names:
            conflicts = tuple(rival for rival in self[name].conflicts if rival in names)
            present[name] = self[name].model_copy(update={"conflicts": conflicts})
        return Registry({name: present[name] for name in self if name in present})

    def profile(self, weights: str | Mapping[str, float] | Iterable[str]) -> Profile:
        """A profile from its name, from a mapping of ids to weights, or from ids alone.

        Raises:
            InputError: no id, an id that does not exist or comes twice, two that conflict, or a weight that is not a
                positive finite number.
        """
        pairs = _pairs(weights)
        if not pairs:
            raise InputError("a profile names no preference; give at least one, such as P1A")
        by_name = dict(pairs)
        for name, weight in pairs:
            if name not in self._preferences:
                raise InputError(f"there is no preference {name!r}; {nearest(name, list(self))}")
            if not (math.isfinite(weight) and weight > 0):
                raise InputError(f"the weight of {name} is {weight:g}; give a positive number")
        if len(by_name) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the profile names {twice} twice; give it one weight")
        problem = self._conflict(list(by_name))
        if problem:
            raise InputError(problem)
        return Profile((name, by_name[name]) for name in self._preferences if name in by_name)

    def _conflict(self, names: Sequence[str]) -> str | None:
        """Why two of these preferences cannot stand in one profile; None where they can."""
        for first, second in itertools.combinations(names, 2):
            ours, theirs = self[first], self[second]
            if ours.dimension == theirs.dimension:
                return f"{first} and {second} are two poles of {ours.dimension}; a profile takes one of them"
            if second in ours.conflicts or first in theirs.conflicts:
                return f"{first} and {second} conflict, as the registry declares; a profile takes one of them"
        return None


def _pairs(weights: str | Mapping[str, float] | Iterable[str]) -> list[tuple[str, float]]:
    if isinstance(weights, Mapping):
        return [(str(name), float(weight)) for name, weight in weights.items()]
    terms = weights.split("+") if isinstance(weights, str) else list(weights)
    return [_term(str(term)) for term in terms if str(term).strip()]


def _term(text: str) -> tuple[str, float]:
    """`P1A` or `P1A*0.5`."""
    name, star, weight = text.strip().partition("*")
    try:
        return name.strip(), float(weight) if star else 1.0
    except ValueError:
        raise InputError(f"{text!r} is no preference with a weight; write it as P1A*0.5") from None


def load_registry(path: str | Path | None = None) -> Registry:
    """The embedded registry, with a user's own preferences beside it or in the place of those with the same id.

    Raises:
        InputError: the file cannot be read, or a preference in it is wrong.
    """
    embedded = _read(_EMBEDDED)
    return Registry(embedded if path is None else {**embedded, **_read(Path(path))})


def registry_files(path: str | None) -> tuple[Path, ...]:
    """What decides the registry that `load_registry` returns."""
    return (_EMBEDDED,) if path is None else (_EMBEDDED, Path(path))


def _read(path: Path) -> dict[str, Preference]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: the preferences cannot be read ({error}); give a YAML mapping of ids") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: the preferences are no mapping of ids; see preferences.yaml of the package")
    return {str(name): _preference(path, str(name), section) for name, section in raw.items()}


def _preference(path: Path, name: str, section: Any) -> Preference:
    if not _ID.fullmatch(name):
        raise InputError(f"{path}: {name!r} is no id of a preference; take letters, digits, _ and -")
    try:
        return Preference.model_validate(section)
    except ValidationError as error:
        raise InputError(explain(error, Preference, f"{path}: {name}")) from error


def _profile_text(value: Any) -> Any:
    """A profile that is written as a mapping or a list, as its name."""
    if isinstance(value, Mapping):
        return "+".join(f"{name}*{weight}" for name, weight in value.items())
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else value


_ProfileAsWritten = str | tuple[str, ...] | dict[str, float]
ProfileText = Annotated[str, BeforeValidator(_profile_text, json_schema_input_type=_ProfileAsWritten)]


def _distinct(profiles: tuple[str, ...] | str) -> tuple[str, ...] | str:
    if not profiles:
        raise ValueError("there are no profiles; name one, or take single or combined")
    return profiles


class PreferenceUse(Section):
    """The profiles under which a stage's prompts stand."""

    profiles: Annotated[Literal["single", "combined"] | tuple[ProfileText, ...], AfterValidator(_distinct)] = "combined"
    """each preference by itself, one pole of each dimension, or profiles: P1A+P2B, [P1A, P2B] or {P1A: 1, P2B: 0.5}"""
    extra: bool = False
    """with the preferences that are marked so in the registry: 16 combined profiles in the place of 8"""
    prompted: bool = True
    """the prompt names its preferences; else they stand in its meta alone"""
    per_prompt: PositiveInt | None = None
    """profiles drawn for each prompt; null: all of them"""
    file: str | None = None
    """a YAML file of further preferences"""

    def registry(self) -> Registry:
        """The preferences."""
        return load_registry(self.file)

    def read_profiles(self) -> tuple[Profile, ...]:
        """The profiles.

        Raises:
            InputError: as `load_registry` and `Registry.profile`; or a profile comes twice.
        """
        registry = self.registry()
        if self.profiles == "single":
            return registry.singles(extra=self.extra)
        if self.profiles == "combined":
            return registry.combinations(extra=self.extra)
        profiles = tuple(registry.profile(text) for text in self.profiles)
        for profile in profiles:
            if profiles.count(profile) > 1:
                raise InputError(f"the profile {profile} comes twice; leave one out")
        return profiles
