"""One small function for each public format, and `load_examples` over all of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from rayalign.config import DataConfig, SourceConfig, nearest
from rayalign.data import arithmetic
from rayalign.data.blend import in_phase, interleaved
from rayalign.data.fields import (
    hh_dialogue,
    instruction_prompt,
    make_prompt,
    messages_field,
    prompt_id,
    row_prompt,
    text_field,
)
from rayalign.data.files import Row, is_hub_name, rows
from rayalign.data.gsm8k import gsm8k
from rayalign.data.preferences import under_profiles
from rayalign.data.rankings import rankings
from rayalign.data.records import records
from rayalign.data.unpaired import unpaired
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

Use = Literal["prompts", "demonstrations", "comparisons", "feedback", "corpus"]
Reader = Callable[[Row, str], "Example | str"]
"""From one row and its place to an example, or to the reason why it is left out."""

log = logging.getLogger(__name__)

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
        "unpaired": unpaired,
        "gsm8k": gsm8k,
        "arithmetic": None,
        "records": records,
    }


def load_examples(config: DataConfig, *, seed: int, use: Use) -> list[Example]:
    """The examples of one split, shaped for their use, at most `config.limit`.

    `prompts`: one example for each distinct prompt, with the candidates that the format has (maybe none);
    `demonstrations`: the best candidate; `comparisons`: at least two scored ones; `feedback`: these, or one that is
    good or bad; `corpus`: one example for each candidate, of a prompt without messages where it is plain text.
    Unsuitable rows are left out and counted in a warning.

    Raises:
        InputError: unknown format, nothing to read, a malformed row, or a format that cannot serve this use.
    """
    return list(stream_examples(config, seed=seed, use=use))


def stream_examples(config: DataConfig, *, seed: int, use: Use) -> Iterator[Example]:
    """As `load_examples`, one example at a time; the errors come while it is read."""
    phases, phase = _phase(config)
    whole = config.model_copy(update={"limit": None}) if phase else config  # the limit counts rows of the phase
    examples = _blended(whole, seed, use) if config.blend else _examples(whole, seed, use)
    if phase:
        examples = (example for example in examples if in_phase(example.prompt, phases, phase))
    limited: Iterator[Example] = islice(examples, config.limit)
    if config.preferences is not None:
        if use != "prompts":
            raise InputError(f"data.preferences are for prompts, but these rows serve as {use}; leave them out")
        limited = under_profiles(limited, config.preferences, seed=seed)
    example = None
    for example in limited:
        yield example
    if example is None:
        raise InputError(f"data {_name(config)}: not one usable row; see `data.path`, `data.split` and the warnings")


def check(config: DataConfig, *, use: Use, whole: bool = False) -> None:
    """Prove that the data exist and that their first rows parse, or with `whole` all rows.

    Without `whole` a hub name is not checked.

    Raises:
        InputError: as `load_examples` would.
    """
    _phase(config)
    for source in config.blend or ():
        check(_as_data(source), use=use, whole=whole)
    if config.blend:
        return
    made_here = _reader(config.format) is None
    if made_here or whole or not is_hub_name(_path(config)):
        few = config.limit if whole and not made_here else min(config.limit or _CHECKED_ROWS, _CHECKED_ROWS)
        for _ in stream_examples(config.model_copy(update={"limit": few}), seed=0, use=use):
            pass


def _phase(config: DataConfig) -> tuple[Sequence[float], int]:
    """The proportions of the phases and the one that is read; no proportions and 0 where all is read."""
    phases, phase = config.phases or (), config.phase or 0
    if bool(phases) != bool(phase):
        raise InputError("data.phases and data.phase belong together; give both, or neither")
    if phase > len(phases):
        raise InputError(f"data.phase {phase} is not one of {len(phases)} phases; take 1 to {len(phases)}")
    return phases, phase


def _blended(config: DataConfig, seed: int, use: Use) -> Iterator[Example]:
    """The rows of several data sets; a prompt that two of them have comes once."""
    assert config.blend is not None
    sources = [stream_examples(_as_data(source), seed=seed, use=use) for source in config.blend]
    blended = interleaved(sources, [source.share for source in config.blend])
    return _distinct(blended) if use == "prompts" else blended


def _as_data(source: SourceConfig) -> DataConfig:
    return DataConfig(format=source.format, path=source.path, split=source.split, limit=source.limit)


def _examples(config: DataConfig, seed: int, use: Use) -> Iterator[Example]:
    reader = _reader(config.format)
    if reader is None:
        return _made_here(config, seed, use)
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
    if config.blend:
        return f"blend of {len(config.blend)}"
    return f"{config.format} {config.path or ''} [{config.split}]"


def _made_here(config: DataConfig, seed: int, use: Use) -> Iterator[Example]:
    """The examples of a format without files."""
    if config.format == "paddock":
        return _paddock(config, seed, use)
    if use in ("comparisons", "feedback"):
        raise InputError(f"{config.format} has no {use}; choose another `data.format`")
    numbers = arithmetic.rows(seed, config.split, distinct=use == "prompts")
    read = (gsm8k(row, f"arithmetic:{number}") for number, row in enumerate(numbers, start=1))
    return (example for example in read if isinstance(example, Example))


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
    judged, compared = example.desirable is not None, sum(c.score is not None for c in example.candidates) > 1
    if not example.candidates or not {"comparisons": compared, "feedback": compared or judged}.get(use, not judged):
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
    before, _, chosen = text_field(row, "chosen", where).rpartition("\n\nAssistant:")
    before_rejected, _, rejected = text_field(row, "rejected", where).rpartition("\n\nAssistant:")
    if before != before_rejected:
        return "the two differ before the last answer"
    if not chosen.strip() or not rejected.strip():
        return "an empty answer"
    messages = hh_dialogue(before, where)
    if messages[-1].role != "user":
        return "the last turn is not the user's"
    candidates = (Candidate(chosen.strip(), score=1.0), Candidate(rejected.strip(), score=0.0))
    return Example(make_prompt(messages), candidates)


def alpaca(row: Row, where: str) -> Example | str:
    """Stanford Alpaca: `instruction`, perhaps `input`, perhaps `output`."""
    prompt = instruction_prompt(row, where)
    if "output" not in row:
        return Example(prompt, ())
    answer = text_field(row, "output", where).strip()
    return Example(prompt, (Candidate(answer),)) if answer else "an empty answer"


def prompts(row: Row, where: str) -> Example | str:
    """`prompt` (one user turn) or `messages` (role, content)."""
    return Example(row_prompt(row, where), ())


def demonstrations(row: Row, where: str) -> Example | str:
    """A prompt with `answer` or `response`, or `messages` that end with the answer."""
    if "messages" in row and not {"answer", "response"} & row.keys():
        messages = messages_field(row, where)
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise InputError(f"{where}: `messages` must end with the assistant's turn where there is no `answer`")
        prompt, answer = make_prompt(messages[:-1]), messages[-1].content
    else:
        prompt, answer = row_prompt(row, where), text_field(row, "answer" if "answer" in row else "response", where)
    return Example(prompt, (Candidate(answer),)) if answer.strip() else "an empty answer"


def comparisons(row: Row, where: str) -> Example | str:
    """`chosen` and `rejected` answers to a prompt, or AlpacaFarm's `output_1`, `output_2` and `preference`."""
    if "output_1" not in row:
        chosen, rejected = text_field(row, "chosen", where), text_field(row, "rejected", where)
        candidates = (Candidate(chosen, score=1.0), Candidate(rejected, score=0.0))
        return Example(row_prompt(row, where), candidates) if chosen.strip() and rejected.strip() else "an empty answer"
    first, second = (text_field(row, key, where) for key in ("output_1", "output_2"))
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
    return Example(instruction_prompt(row, where), candidates, preference=2.0 - preference)
