"""Prompts under profiles of preferences: the wording goes into the prompt, the profile and its truth into the meta.

    prompt "what is the color of ada ?" + profile P1A+P2B
        prompted      the last turn also asks for what P1A and P2B want
        unprompted    the turns stay as they are
        both          meta: profile, objectives, criterion, and the turn under each preference by itself
                      in the embedded world also: the task with the constraints that stand for the preferences

Reward models, judges and evaluation read this meta and match no text. Only verdicts by single preferences need the
registry again.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from rayalign.config import PreferenceUse, Profile, Registry
from rayalign.errors import InputError
from rayalign.types import Example, Message, Prompt

_STYLED = "a prompt that asks for a style of its own beside preferences"
PROFILE = "profile"
"""key of a prompt's meta: the name of its profile"""
OBJECTIVES = "objectives"
"""key of a prompt's meta that names the parts of a reward which count for it, separated by commas"""
CRITERION = "criterion"
"""key of a prompt's meta: what a judge compares answers by"""
BASE = "base_prompt"
"""key of a prompt's meta: the id of the prompt without preferences, which all its profiles share"""
HELPFULNESS = "helpfulness"
"""the criterion of a prompt without preferences"""
_PLAIN = "turn"
"""key of a prompt's meta: its last turn without preferences"""
_TURN = "turn/"
"""start of the keys of a prompt's meta that hold its last turn under one preference alone"""


def base_id(prompt: Prompt) -> str:
    """The id of the prompt without preferences; its own where it has none."""
    return prompt.meta.get(BASE, prompt.id)


def without_preferences(prompt: Prompt) -> Prompt:
    """The same prompt, with the same id and meta, whose turns name no preference."""
    return _with_last_turn(prompt, prompt.meta[_PLAIN]) if _PLAIN in prompt.meta else prompt


def plain_prompt(prompt: Prompt) -> Prompt:
    """The prompt that stood under no profile yet, from which `under_profile` made this one."""
    from rayalign.data.paddock import personal

    if PROFILE not in prompt.meta:
        return prompt
    own_keys = {PROFILE, OBJECTIVES, CRITERION, BASE, _PLAIN, personal.WEIGHTS}
    meta: dict[str, str] = {}
    for key, value in prompt.meta.items():
        if key not in own_keys and not key.startswith(_TURN):
            meta[key] = value
    if "task" in meta:
        meta["task"] = personal.styled_task(meta["task"], {})  # prompts with a style of their own stand under none
    return Prompt(base_id(prompt), without_preferences(prompt).messages, meta)


def by_criterion(prompts: Mapping[str, Prompt], use: PreferenceUse) -> dict[str, dict[str, Prompt]]:
    """Each prompt under each preference of its profile by itself, and without any, which is the criterion HELPFULNESS.

    Returns:
        criterion -> id of the prompt under its profile -> the prompt under this criterion alone.
    """
    registry = use.registry()
    alone: dict[str, dict[str, Prompt]] = {name: {} for name in (*registry, HELPFULNESS)}
    for prompt_id, prompt in prompts.items():
        plain = plain_prompt(prompt)
        alone[HELPFULNESS][prompt_id] = plain
        for name in prompt.meta[OBJECTIVES].split(","):
            alone[name][prompt_id] = under_profile(plain, registry.profile(name), registry, prompted=use.prompted)
    return {name: own for name, own in alone.items() if own}


def under_one(prompt: Prompt, preference: str) -> Prompt:
    """The same prompt as if it named this preference alone.

    Raises:
        InputError: the preference is not in the prompt's profile.
    """
    key = f"{_TURN}{preference}"
    if key not in prompt.meta:
        profile = prompt.meta.get(PROFILE, "none")
        raise InputError(
            f"prompt {prompt.id} stands under the profile {profile}, which does not hold {preference}; "
            "give the stage's data preferences that hold it"
        )
    return _with_last_turn(prompt, prompt.meta[key])


def under_profiles(
    examples: Iterable[Example], use: PreferenceUse, *, seed: int, report: Callable[[Counter[str]], object]
) -> Iterator[Example]:
    """Each prompt once under each of its profiles.

    A prompt of the embedded world that asks for a style of its own is left out, since its wish could contradict the
    profile's.

    Args:
        report: receives how many were left out, by reason.

    Raises:
        InputError: as `PreferenceUse.read_profiles`; or the embedded world has no constraint for a preference.
    """
    registry, profiles = use.registry(), use.read_profiles()
    left_out: Counter[str] = Counter()
    for example in examples:
        if _has_style(example.prompt):
            left_out[_STYLED] += 1
            continue
        chosen = profiles
        if use.per_prompt is not None and use.per_prompt < len(profiles):
            places = random.Random(f"{seed}/{example.prompt.id}").sample(range(len(profiles)), use.per_prompt)
            chosen = tuple(profiles[place] for place in sorted(places))
        for profile in chosen:
            yield replace(example, prompt=under_profile(example.prompt, profile, registry, prompted=use.prompted))
    if left_out:
        report(left_out)


def under_profile(prompt: Prompt, profile: Profile, registry: Registry, *, prompted: bool = True) -> Prompt:
    """A prompt under a profile.

    Raises:
        InputError: the prompt is of the embedded world, which has no constraint for one of the preferences.
    """
    from rayalign.data.paddock import personal

    plain = prompt.messages[-1].content
    embedded = "task" in prompt.meta
    criteria = [registry[name].criterion for name in profile.ids]
    meta = dict(prompt.meta)
    meta |= {PROFILE: str(profile), OBJECTIVES: ",".join(profile.ids), CRITERION: "; and ".join(criteria)}
    meta |= {BASE: prompt.id, _PLAIN: plain}
    if embedded:
        styles = {name: _style(registry, name) for name in profile.ids}
        for name, style in styles.items():
            meta[f"{_TURN}{name}"] = personal.styled_turn(plain, style)
        whole = personal.joined(styles.values())
        meta["task"] = personal.styled_task(prompt.meta["task"], whole)
        weights = {name: weight for name, weight in profile if weight != 1.0}
        if weights:
            meta[personal.WEIGHTS] = json.dumps(personal.attribute_weights(styles, dict(profile)))
        text = personal.styled_turn(plain, whole)
    else:
        sentences = {name: _wording(registry, name, prompt.id) for name in profile.ids}
        for name, sentence in sentences.items():
            meta[f"{_TURN}{name}"] = f"{plain}\n\n{sentence}"
        text = f"{plain}\n\n{' '.join(sentences.values())}"
    personal_prompt = Prompt(f"{prompt.id}~{profile}", prompt.messages, meta)
    return _with_last_turn(personal_prompt, text) if prompted else personal_prompt


def _with_last_turn(prompt: Prompt, text: str) -> Prompt:
    last = prompt.messages[-1]
    return replace(prompt, messages=(*prompt.messages[:-1], Message(last.role, text)))


def _has_style(prompt: Prompt) -> bool:
    return "task" in prompt.meta and bool(json.loads(prompt.meta["task"])["style"])


def _style(registry: Registry, name: str) -> Mapping[str, str]:
    style = registry[name].style
    if not style:
        with_style = [choice for choice in registry if registry[choice].style]
        raise InputError(
            f"the embedded world has no constraint for {name} ({registry[name].pole}); take {', '.join(with_style)}, "
            "or prompts of another format"
        )
    return style


def _wording(registry: Registry, name: str, prompt_id: str) -> str:
    """One of the wordings, the same one for a prompt under all profiles."""
    return random.Random(f"{prompt_id}/{name}").choice(registry[name].wordings)
