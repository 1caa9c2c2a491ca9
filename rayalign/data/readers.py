"""One small function for each public format, and `load_examples` over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from rayalign.config import AUTO, DataConfig, SourceConfig, nearest
from rayalign.data.blend import hashed_split, in_phase, interleaved
from rayalign.data.code_reader import code_reader
from rayalign.data.comparisons import comparisons, shp, ultrafeedback, webgpt
from rayalign.data.fields import prompt_id
from rayalign.data.files import Row, is_hub_name, rows
from rayalign.data.formats import alpaca, demonstrations, hh, prompts
from rayalign.data.gsm8k import gsm8k
from rayalign.data.left_out import Reduced, Report, log_left_out, no_report
from rayalign.data.made_here import made_here
from rayalign.data.preferences import under_profiles
from rayalign.data.rankings import rankings
from rayalign.data.recognise import recognise
from rayalign.data.records import records
from rayalign.data.row_files import refuse_half_surrogates
from rayalign.data.unpaired import unpaired
from rayalign.errors import InputError
from rayalign.types import Example

Use = Literal["prompts", "demonstrations", "comparisons", "feedback", "corpus"]
Reader = Callable[[Row, str], "Example | Reduced | str"]
"""From one row and its place to an example, perhaps of fewer answers, or to the reason why it is left out."""
Placed = Iterator[tuple[Example, str]]
"""examples, each with the place of its row"""

_CHECKED_ROWS = 50
_NO_ANSWER = "no answer"


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
        "ultrafeedback": ultrafeedback,
        "shp": shp,
        "webgpt": webgpt,
        "gsm8k": gsm8k,
        "arithmetic": None,
        "records": records,
    }


def load_examples(config: DataConfig, *, seed: int, use: Use, report: Report = log_left_out) -> list[Example]:
    """The examples of one split, shaped for their use, at most `config.limit`.

    `prompts`: one example for each distinct prompt, with the candidates that the format has (maybe none);
    `demonstrations`: the best candidate; `comparisons`: at least two scored ones; `feedback`: these, or one that is
    good or bad; `corpus`: one example for each candidate, of a prompt without messages where it is plain text.
    Unsuitable rows and empty answers are left out, counted, and reported; by default in a warning.

    Raises:
        InputError: unknown format, nothing to read, a malformed row, or a format that cannot serve this use.
    """
    return list(stream_examples(config, seed=seed, use=use, report=report))


def stream_examples(config: DataConfig, *, seed: int, use: Use, report: Report = log_left_out) -> Iterator[Example]:
    """As `load_examples`, one example at a time; the errors come while it is read."""
    return (example for example, _ in placed_examples(config, seed=seed, use=use, report=report))


def placed_examples(config: DataConfig, *, seed: int, use: Use, report: Report = log_left_out) -> Placed:
    """As `stream_examples`, each example with the place of its row, such as `train.jsonl:17`."""
    phases, phase = _phase(config)
    whole = config.model_copy(update={"limit": None}) if phase else config  # the limit counts rows of the phase
    examples = (_blended if config.blend else _examples)(whole, seed, use, report)
    if phase:
        examples = (placed for placed in examples if in_phase(placed[0].prompt, phases, phase))
    limited: Placed = islice(examples, config.limit)
    if config.preferences is not None:
        name = _name(config)
        plain = (example for example, _ in limited)
        limited = ((example, name) for example in _personal(plain, config, seed, use, partial(report, name)))
    placed = None
    for placed in limited:
        yield placed
    if placed is None:
        raise InputError(f"data {_name(config)}: not one usable row; see `data.path`, `data.split` and the warnings")


def _personal(
    plain: Iterator[Example], config: DataConfig, seed: int, use: Use, report: Callable[[Counter[str]], object]
) -> Iterator[Example]:
    """The rows under the profiles of `data.preferences`.

    The answer of a row was written without them. So only prompts can have them, and demonstrations of the embedded
    world, which writes answers anew.
    """
    assert config.preferences is not None
    if use != "prompts" and not (use == "demonstrations" and config.embedded):
        raise InputError(
            f"data.preferences are for prompts, but these rows serve as {use}, whose answers were written without "
            "them; leave them out"
        )
    personal = under_profiles(plain, config.preferences, seed=seed, report=report)
    if use == "prompts":
        return personal
    from rayalign.data import paddock

    return paddock.demonstrated((example.prompt for example in personal), seed)


def format_of(config: DataConfig) -> str:
    """The format of the rows: the named one, or the one that the first row is recognised as.

    Raises:
        InputError: there is no row, or it has no format that is known.
    """
    if config.format != AUTO:
        return config.format
    first = next(_renamed_rows(config), None)
    if first is None:
        raise InputError(f"data {config.path}: holds no rows; correct `data.path`")
    row, where = first
    name = recognise(row)
    if name is None:
        files = [name for name, reader in known_formats().items() if reader is not None]
        raise InputError(
            f"{where}: no format is recognised from a row with {', '.join(map(str, row)) or 'nothing'}; name one as "
            f"`data.format` ({', '.join(files)}), or map its columns, such as "
            "`data.columns: {prompt: question, answer: reply}`"
        )
    return name


def check(config: DataConfig, *, use: Use, whole: bool = False, report: Report = log_left_out) -> None:
    """Prove that the data exist and that their first rows parse, or with `whole` all rows.

    Without `whole` a hub name is not checked.

    Raises:
        InputError: as `load_examples` would.
    """
    _phase(config)
    for source in config.blend or ():
        check(_as_data(source), use=use, whole=whole, report=report)
    if config.blend:
        return
    has_no_files = config.format != AUTO and _reader(config.format) is None
    if has_no_files or whole or not is_hub_name(_path(config)):
        few = config.limit if whole and not has_no_files else min(config.limit or _CHECKED_ROWS, _CHECKED_ROWS)
        first = config.model_copy(update={"limit": few})
        for _ in placed_examples(first, seed=0, use=use, report=report if whole else no_report):
            pass


def _phase(config: DataConfig) -> tuple[Sequence[float], int]:
    """The proportions of the phases and the one that is read; no proportions and 0 where all is read."""
    phases, phase = config.phases or (), config.phase or 0
    if bool(phases) != bool(phase):
        raise InputError("data.phases and data.phase belong together; give both, or neither")
    if phase > len(phases):
        raise InputError(f"data.phase {phase} is not one of {len(phases)} phases; take 1 to {len(phases)}")
    return phases, phase


def _blended(config: DataConfig, seed: int, use: Use, report: Report) -> Placed:
    """The rows of several data sets; a prompt that two of them have comes once."""
    assert config.blend is not None
    sources = [placed_examples(_as_data(source), seed=seed, use=use, report=report) for source in config.blend]
    blended = interleaved(sources, [source.share for source in config.blend])
    return _distinct(blended) if use == "prompts" else blended


def _as_data(source: SourceConfig) -> DataConfig:
    return DataConfig(**source.model_dump(exclude={"share"}))


def _examples(config: DataConfig, seed: int, use: Use, report: Report) -> Placed:
    config = config.model_copy(update={"format": format_of(config)})
    reader = _reader(config.format)
    if reader is None:
        name = _name(config)
        return ((example, name) for example in made_here(config, seed, use))
    placed = _rows_in_split(config, reader, use, report)
    return _distinct(placed) if use == "prompts" else placed


def _reader(name: str) -> Reader | None:
    if ":" in name:
        return code_reader(name)
    formats = known_formats()
    if name not in formats:
        raise InputError(f"data format {name!r} is not known; {nearest(name, [AUTO, *formats])}")
    return formats[name]


def _path(config: DataConfig) -> str:
    if config.path is None:
        raise InputError(f"data format {config.format!r} reads files: name a file or folder as `data.path`")
    return config.path


def _name(config: DataConfig) -> str:
    if config.blend:
        return f"blend of {len(config.blend)}"
    return f"{config.format} {config.path or ''} [{config.split}]"


def _renamed_rows(config: DataConfig) -> Iterator[tuple[Row, str]]:
    """The rows of the split, with the format's keys for the columns that the job maps."""
    split = "train" if config.split == "corpus" else config.split
    for row, where in rows(_path(config), split):
        refuse_half_surrogates(row, where)
        missing = [name for name in config.columns.values() if name not in row]
        if missing:
            raise InputError(
                f"{where}: `data.columns` maps {missing[0]!r}, but the row has {', '.join(map(str, row)) or 'nothing'}"
            )
        mapped = {key: row[name] for key, name in config.columns.items()}
        others = {key: value for key, value in row.items() if key not in config.columns.values()}
        yield others | mapped, where


def _rows_in_split(config: DataConfig, reader: Reader, use: Use, report: Report) -> Placed:
    """Rows of the split. One hh or alpaca file has no split of its own: a tenth of its first turns is `test`."""
    split = "train" if config.split == "corpus" else config.split
    by_hash = reader in (hh, alpaca) and Path(_path(config)).is_file() and split != "all"
    if by_hash and split not in ("train", "test"):
        raise InputError(f"data {_name(config)}: one file has the splits train, test and all")
    skipped: Counter[str] = Counter()
    absent: Counter[str] = Counter()
    usable = 0
    try:
        for row, where in _renamed_rows(config):
            example = reader(row, where)
            left_out: Counter[str] = Counter()
            if isinstance(example, Reduced):
                example, left_out = example
            shaped = example if isinstance(example, str) else _shape(example, use, where)
            if isinstance(shaped, str):
                skipped[shaped] += 1
                continue
            usable += 1
            absent += left_out
            if not by_hash or hashed_split(prompt_id(shaped[0].prompt.messages[:1])) == split:
                yield from ((example, where) for example in shaped)
        if not usable and skipped[_NO_ANSWER]:
            raise InputError(
                f"data {_name(config)}: its rows hold no answer and cannot serve as {use}; choose another `data.format`"
            )
    finally:
        is_file = Path(_path(config)).is_file()
        of_split = "" if is_file else f" [{split}]"  # of a file all rows were counted, whatever the split
        name = f"{config.format} {config.path}{of_split}"
        if skipped:
            report(name, skipped)
        if absent:
            report(name, absent, "answers")


def _shape(example: Example, use: Use, where: str) -> list[Example] | str:
    """The row as its use takes it, or why it is left out."""
    if use == "prompts":
        return [example]
    if not example.candidates:
        return _NO_ANSWER
    judged, compared = example.desirable is not None, sum(c.score is not None for c in example.candidates) > 1
    fits = {"comparisons": compared, "feedback": compared or judged, "corpus": True}
    if not fits.get(use, not judged):
        raise InputError(f"{where}: a row of this format cannot serve as {use}; choose another `data.format`")
    if use == "corpus":
        return [replace(example, candidates=(c,)) for c in example.candidates]
    if use == "demonstrations":
        best = max(example.candidates, key=lambda c: c.score if c.score is not None else float("-inf"))
        return [replace(example, candidates=(best,))]
    return [example]


def _distinct(examples: Placed) -> Placed:
    ids: set[str] = set()
    for example, where in examples:
        if example.prompt.id not in ids:
            ids.add(example.prompt.id)
            yield example, where
