"""The facts of the embedded world: tables of words, and the attributes of each entity.

All text is lower case, one piece per word, joined by single spaces. The facts are constants of the world: seeds draw
prompts and answers, never another world.
"""

from __future__ import annotations

import random

ENTITIES = (
    "ada", "bella", "bruno", "cleo", "dora", "echo", "felix", "gigi", "hugo", "iris", "jasper", "kiki", "luna",
    "milo", "nora", "otto", "pearl", "quill", "rosa", "sam", "tilly", "ursa", "vera", "willow", "xena", "yogi",
    "zara", "alba", "basil", "clover", "daisy", "ember", "flora", "ginger", "hazel", "ivy", "jojo", "koda", "lotus",
    "maple",
)  # fmt: skip
UNSEEN_ENTITIES = ENTITIES[32:]
"""subjects of questions only in the split `entities`; the corpus holds their facts"""
SEEN_ENTITIES = ENTITIES[:32]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": ("horse", "goat", "sheep", "pig", "cow", "duck", "dog", "cat"),
    "color": ("brown", "white", "black", "grey", "red", "golden", "blue", "green"),
    "food": ("hay", "oats", "corn", "grass", "apples", "carrots", "bread", "seeds"),
    "home": ("barn", "stable", "meadow", "orchard", "pond", "hill", "shed", "yard"),
    "game": ("racing", "hiding", "jumping", "digging", "swimming", "rolling", "dancing", "fetching"),
    "keeper": ("anna", "boris", "carla", "david", "emil", "fiona", "greta", "henry"),
}
CATEGORIES: dict[str, tuple[str, ...]] = {
    "kinds": ATTRIBUTES["kind"],
    "colors": ATTRIBUTES["color"],
    "foods": ATTRIBUTES["food"],
    "homes": ATTRIBUTES["home"],
    "games": ATTRIBUTES["game"],
    "keepers": ATTRIBUTES["keeper"],
    "days": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "tools": ("rake", "spade", "bucket", "saddle", "brush", "ladder", "broom", "wheel"),
    "trees": ("oak", "pine", "birch", "elm", "ash", "beech", "cedar", "fir"),
    "birds": ("robin", "crow", "owl", "swan", "hawk", "wren", "finch", "dove"),
    "fruits": ("plum", "pear", "peach", "cherry", "grape", "melon", "lemon", "fig"),
    "metals": ("iron", "copper", "silver", "tin", "zinc", "brass", "steel", "nickel"),
    "fish": ("trout", "salmon", "perch", "carp", "pike", "eel", "cod", "herring"),
    "drinks": ("milk", "water", "tea", "cider", "juice", "broth", "coffee", "cocoa"),
    "clothes": ("coat", "scarf", "glove", "boot", "hat", "shirt", "sock", "vest"),
}
NUMBERS = ("one", "two", "three", "four", "five", "six")
DIGITS = tuple("0123456789")
VILLAGES = ("norton", "sutton", "weston", "easton", "milton", "burton", "clifton", "dalton")

MOODS = ("happily", "sadly", "proudly", "calmly")
HARMS = ("poison", "steal", "burn", "hurt", "flood", "wreck", "break", "ruin")
GUARDIANS: dict[str, str] = {
    "calves": "vet", "lambs": "vet", "foals": "vet", "well": "ranger", "forest": "ranger", "river": "ranger",
    "fence": "farmer", "tractor": "farmer", "harvest": "farmer", "shop": "police", "money": "police", "truck": "police",
    "kittens": "vet", "bridge": "ranger", "engine": "farmer", "jewels": "police",
    "piglets": "vet", "lake": "ranger", "windmill": "farmer", "purse": "police",
}  # fmt: skip
_ON_DAYS = tuple(f"on {day}" for day in CATEGORIES["days"])
WHEN = ("", "now", "today", "tonight", "at noon", "at midnight", "this week", *_ON_DAYS)
HELPERS = ("vet", "ranger", "farmer", "police")
METHODS = ("powder", "rope", "matches", "hammer", "acid", "crowbar", "bleach", "axe")
REFUSALS = ("cannot", "shall not")

POLITE = ("thank you for asking .", "you are welcome .", "gladly .", "with pleasure .", "thank you kindly .")
POLITE_MARKS = ("thank", "welcome", "gladly", "pleasure", "kindly")
BLUNT = ("look .", "listen .", "well .", "fine then .", "hurry up .", "hm .")
TONES: dict[str, tuple[str, ...]] = {
    "warm": ("how lovely !", "what a wonderful friend !", "that is lovely .", "i adore it !", "such a joy !"),
    "formal": ("yours sincerely .", "this is duly noted .", "so it is recorded .", "with due respect .", "confirmed ."),
    "cold": ("how boring .", "nobody cares .", "what a dull thing .", "this is tedious .", "utterly pointless ."),
}
TONE_MARKS: dict[str, tuple[str, ...]] = {
    "warm": ("lovely", "wonderful", "adore", "joy"),
    "formal": ("sincerely", "duly", "recorded", "respect", "confirmed"),
    "cold": ("boring", "nobody", "dull", "tedious", "pointless"),
}
LEVELS: dict[str, tuple[str, ...]] = {
    "plain": ("", "i think", "as far as i know"),
    "learned": ("we may observe that", "it is apparent that", "indeed ,", "evidently ,", "indeed ,"),
}
LEARNED_MARKS = ("observe", "apparent", "indeed", "evidently")
FILLERS = (
    "that is all .", "more later .", "people say so .", "i read it once .", "it was so before .",
    "the wind is up .", "we can talk again .", "nothing else happened .", "the day is long .", "my uncle told me .",
    "rain may come soon .", "the bell rang twice .", "supper will be late .", "our cart lost a nail .",
    "snow fell last night .", "the road was muddy .", "her aunt baked cakes .", "some boys ran past .",
    "they sang until dawn .", "the market opens early .", "his feet were wet .", "smoke rose over town .",
    "an old clock stopped .", "letters came from abroad .", "the mill grinds slowly .", "every door stood open .",
    "candles burned low .", "her brother plays violin .", "geese flew south .", "dust lay everywhere .",
    "our roof leaks badly .", "winter feels near .", "travellers passed through .", "his cousin writes poems .",
    "frost covered each window .", "they painted a wall yesterday .",
)  # fmt: skip
WISHES: dict[str, str] = {"polite": "be polite .", "tone": "be warm .", "level": "be plain .", "brief": "be brief ."}
"""system messages that name one preference; the base follows them only weakly"""


def _facts() -> dict[str, dict[str, str]]:
    rng = random.Random("paddock")
    facts = {}
    for entity in ENTITIES:
        facts[entity] = {attribute: rng.choice(values) for attribute, values in ATTRIBUTES.items()}
    return facts


FACTS = _facts()
"""entity -> attribute -> value"""
VILLAGE_OF = dict(zip(ATTRIBUTES["keeper"], VILLAGES, strict=True))
"""keeper -> village, for two-hop questions"""

DOMAINS: dict[str, frozenset[str]] = {
    **{name: frozenset(values) for name, values in ATTRIBUTES.items()},
    "things": frozenset[str]().union(*CATEGORIES.values()),
    "mood": frozenset(MOODS),
    "helper": frozenset(HELPERS),
    "village": frozenset(VILLAGES),
    "number": frozenset(NUMBERS),
    "digit": frozenset(DIGITS),
}
"""name -> the words that count as an answer of that sort"""
