"""One small function for each public format, and `load_examples` over all of them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from rayalign.config import DataConfig, nearest
from rayalign.data.files import Row, is_hub_name, rows
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

Use = Literal["prompts", "demonstrations", "comparisons", "corpus"]
Reader = Callable[[Row, str], "Example | str"]
"""From one row and its place to an example, or to the reason why it is left out."""

log = logging.getLogger(__name__)

_TURN = re.compile(r"\n\n(Human|Assistant):")
_CHECKED_ROWS = 50
_CORPUS_DOCUMENTS = 20_000


def known_formats() -> dict[str, Reader | None]:
    """Every format name with its reader; None for a format without rows in files."""
    return {
        "paddock": None,
        "hh": hh,
        "alpaca": alpaca,
        "prompts": prompts,
        "demonstrations": demonstrations,
        "comparisons": comparisons,
        "rankings": rankings,
    }


def load_examples(config: DataConfig, *, seed: int, use: Use) -> list[Example]:
    """The examples of one split, shaped for their use, at most `config.limit`.

    `prompts` keeps one example for each distinct prompt, with the candidates that the format has (maybe none);
    `demonstrations` one candidate, the best; `comparisons` at least two scored ones; `corpus` one example for each
    candidate, of a prompt without messages where it is plain text. Unsuitable rows are left out and counted in a
    warning.

    Raises:
        InputError: unknown format, nothing to read, a malformed row, or a format that cannot serve this use.
    """
    examples = list(islice(_examples(config, seed, use), config.limit))
    if not examples:
        raise InputError(f"data {_name(config)}: not one usable row; see `data.path`, `data.split` and the warnings")
    return examples


def check(config: DataConfig, *, use: Use, whole: bool = False) -> None:
    """Prove that the data exist and that their first rows parse, or with `whole` all rows.

    Without `whole` a hub name is not checked.

    Raises:
        InputError: as `load_examples` would.
    """
    made_here = _reader(config.format) is None
    if made_here or whole or not is_hub_name(_path(config)):
        few = config.limit if whole and not made_here else min(config.limit or _CHECKED_ROWS, _CHECKED_ROWS)
        load_examples(config.model_copy(update={"limit": few}), seed=0, use=use)


def prompt_id(messages: Sequence[Message]) -> str:
    """An id made from the content alone."""
    text = json.dumps([[m.role, m.content] for m in messages])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def make_prompt(messages: Sequence[Message]) -> Prompt:
    """The dialogue as a prompt, its id made from its content."""
    return Prompt(prompt_id(messages), tuple(messages))


def _examples(config: DataConfig, seed: int, use: Use) -> Iterator[Example]:
    reader = _reader(config.format)
    if reader is None:
        return _paddock(config, seed, use)
    placed = _rows_in_split(config, reader)
    shaped = chain.from_iterable(_shape(example, use, where) for example, where in placed)
    return _distinct(shaped) if use == "prompts" else shaped


def _reader(name: str) -> Reader | None:
    formats = known_formats()
    if name not in formats:
        raise InputError(f"data format {name!r} is not known; {nearest(name, list(formats))}")
    return formats[name]


def _path(config: DataConfig) -> str:
    if config.path is None:
        raise InputError(f"data format {config.format!r} reads files: name a file or folder as `data.path`")
    return config.path


def _name(config: DataConfig) -> str:
    return f"{config.format} {config.path or ''} [{config.split}]"


def _paddock(config: DataConfig, seed: int, use: Use) -> Iterator[Example]:
    from rayalign.data import paddock

    if use == "prompts":
        return (Example(prompt, ()) for prompt in paddock.prompts(seed, config.split, config.limit))
    own = {"demonstrations": "sft", "corpus": "corpus"}.get(use)
    if own and config.split not in (own, DataConfig().split):
        raise InputError(f"paddock has no {use} of the split {config.split!r}; leave data.split out, or take {own}")
    if use == "demonstrations":
        return iter(paddock.demonstrations(seed, config.limit or paddock.SIZES["sft"]))
    if use == "corpus":
        texts = paddock.corpus(seed, config.limit or _CORPUS_DOCUMENTS)
        return (Example(Prompt(prompt_id((Message("assistant", t),)), ()), (Candidate(t),)) for t in texts)
    raise InputError("paddock has no ready comparisons; name a generate and an annotate stage's output as `examples`")


def _rows_in_split(config: DataConfig, reader: Reader) -> Iterator[tuple[Example, str]]:
    """Rows of the split. One hh or alpaca file has no split of its own: a tenth of its first turns is `test`."""
    path, split = _path(config), "train" if config.split == "corpus" else config.split
    by_hash = reader in (hh, alpaca) and Path(path).is_file() and split != "all"
    if by_hash and split not in ("train", "test"):
        raise InputError(f"data {_name(config)}: one file has the splits train, test and all")
    skipped: Counter[str] = Counter()
    try:
        for row, where in rows(path, split):
            example = reader(row, where)
            if isinstance(example, str):
                skipped[example] += 1
            elif not by_hash or _hashed_split(example.prompt) == split:
                yield example, where
    finally:
        if skipped:
            counts = ", ".join(f"{reason}: {n}" for reason, n in skipped.most_common())
            log.warning("data %s: %d rows left out (%s)", _name(config), skipped.total(), counts)


def _hashed_split(prompt: Prompt) -> str:
    """By the first turn, so that dialogues with one opening stay together."""
    return "test" if int(prompt_id(prompt.messages[:1]), 16) % 10 == 0 else "train"


def _shape(example: Example, use: Use, where: str) -> list[Example]:
    if use == "prompts":
        return [example]
    scored = [c for c in example.candidates if c.score is not None]
    if not example.candidates or (use == "comparisons" and len(scored) < 2):
        raise InputError(f"{where}: a row of this format cannot serve as {use}; choose another `data.format`")
    if use == "corpus":
        return [replace(example, candidates=(c,)) for c in example.candidates]
    if use == "demonstrations":
        best = max(example.candidates, key=lambda c: c.score if c.score is not None else float("-inf"))
        return [replace(example, candidates=(best,))]
    return [example]


def _distinct(examples: Iterator[Example]) -> Iterator[Example]:
    ids: set[str] = set()
    for example in examples:
        if example.prompt.id not in ids:
            ids.add(example.prompt.id)
            yield example


def hh(row: Row, where: str) -> Example | str:
    """Anthropic HH-RLHF: `chosen` and `rejected` are whole dialogues that share all but the last answer."""
    before, _, chosen = _text(row, "chosen", where).rpartition("\n\nAssistant:")
    before_rejected, _, rejected = _text(row, "rejected", where).rpartition("\n\nAssistant:")
    if before != before_rejected:
        return "the two differ before the last answer"
    if not chosen.strip() or not rejected.strip():
        return "an empty answer"
    messages = _dialogue(before, where)
    if messages[-1].role != "user":
        return "the last turn is not the user's"
    candidates = (Candidate(chosen.strip(), score=1.0), Candidate(rejected.strip(), score=0.0))
    return Example(make_prompt(messages), candidates)


def alpaca(row: Row, where: str) -> Example | str:
    """Stanford Alpaca: `instruction`, perhaps `input`, perhaps `output`."""
    prompt = _instruction(row, where)
    if "output" not in row:
        return Example(prompt, ())
    answer = _text(row, "output", where).strip()
    return Example(prompt, (Candidate(answer),)) if answer else "an empty answer"


def prompts(row: Row, where: str) -> Example | str:
    """`prompt` (one user turn) or `messages` (role, content)."""
    return Example(_prompt(row, where), ())


def demonstrations(row: Row, where: str) -> Example | str:
    """A prompt with `answer` or `response`, or `messages` that end with the answer."""
    if "messages" in row and not {"answer", "response"} & row.keys():
        messages = _messages(row, where)
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise InputError(f"{where}: `messages` must end with the assistant's turn where there is no `answer`")
        prompt, answer = make_prompt(messages[:-1]), messages[-1].content
    else:
        prompt, answer = _prompt(row, where), _text(row, "answer" if "answer" in row else "response", where)
    return Example(prompt, (Candidate(answer),)) if answer.strip() else "an empty answer"


def comparisons(row: Row, where: str) -> Example | str:
    """`chosen` and `rejected` answers to a prompt, or AlpacaFarm's `output_1`, `output_2` and `preference`."""
    if "output_1" not in row:
        chosen, rejected = _text(row, "chosen", where), _text(row, "rejected", where)
        candidates = (Candidate(chosen, score=1.0), Candidate(rejected, score=0.0))
        return Example(_prompt(row, where), candidates) if chosen.strip() and rejected.strip() else "an empty answer"
    first, second = (_text(row, key, where) for key in ("output_1", "output_2"))
    preference = row.get("preference")
    if preference is None:
        return "no verdict"
    if not isinstance(preference, int | float) or not (preference == 0 or 1 <= preference <= 2):
        raise InputError(
            f"{where}: `preference` must be between 1 (first) and 2 (second), or 0 for a tie: {preference!r}"
        )
    if preference in (0, 1.5):
        return "a tie"
    candidates = (Candidate(first, score=2.0 - preference), Candidate(second, score=preference - 1.0))
    return Example(_instruction(row, where), candidates)


def rankings(row: Row, where: str) -> Example | str:
    """RRHF: `query` with `responses` and their `scores`; the query may be a dialogue in the notation of HH."""
    query, responses, scores = _text(row, "query", where), row.get("responses"), row.get("scores")
    if not isinstance(responses, list) or not isinstance(scores, list) or len(responses) != len(scores):
        raise InputError(f"{where}: `responses` and `scores` must be two lists of the same length")
    if not all(isinstance(r, str) for r in responses) or not all(isinstance(s, int | float) for s in scores):
        raise InputError(f"{where}: `responses` must be texts and `scores` numbers")
    is_dialogue = query.startswith("\n\nHuman:")
    messages = _dialogue(query.removesuffix("\n\nAssistant:"), where) if is_dialogue else (Message("user", query),)
    pairs = zip(responses, scores, strict=True)
    candidates = tuple(Candidate(text, score=float(score)) for text, score in pairs if text.strip())
    return Example(make_prompt(messages), candidates) if len(candidates) > 1 else "fewer than two answers"


# ---- fields


def _text(row: Row, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise InputError(f"{where}: needs a text {key!r}; the row has {', '.join(map(str, row)) or 'nothing'}")
    return value


def _instruction(row: Row, where: str) -> Prompt:
    instruction, extra = _text(row, "instruction", where), row.get("input") or ""
    return make_prompt((Message("user", f"{instruction}\n\n{extra}" if extra else instruction),))


def _prompt(row: Row, where: str) -> Prompt:
    if "messages" not in row:
        return make_prompt((Message("user", _text(row, "prompt", where)),))
    messages = _messages(row, where)
    if messages[-1].role != "user":
        raise InputError(f"{where}: `messages` of a prompt must end with the user's turn")
    return make_prompt(messages)


def _messages(row: Row, where: str) -> tuple[Message, ...]:
    turns = row["messages"]
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise InputError(f"{where}: `messages` must be a list of objects with role and content")
    for turn in turns:
        if turn.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"{where}: the role of a message is system, user or assistant, not {turn.get('role')!r}")
    return tuple(Message(turn["role"], _text(turn, "content", where)) for turn in turns)


def _dialogue(text: str, where: str) -> tuple[Message, ...]:
    """A dialogue in the notation of HH; neighbouring turns of one speaker become one turn."""
    lead, *parts = _TURN.split(text)
    if lead.strip() or not parts or parts[0] != "Human":
        raise InputError(
            f"{where}: a dialogue must open with '\\n\\nHuman:' and have '\\n\\nAssistant:' before each answer"
        )
    turns: list[Message] = []
    for speaker, body in zip(parts[::2], parts[1::2], strict=True):
        role: Literal["user", "assistant"] = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1].role == role:
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n\n{body.strip()}")
        else:
            turns.append(Message(role, body.strip()))
    return tuple(turns)
