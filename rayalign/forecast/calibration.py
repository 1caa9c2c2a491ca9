"""Which share of the ideal each phase reaches, from measured runs; where nothing was measured, a wide range.

A record is one phase of one stage of one run. A forecast takes the records of the same device, and among them those of
the most alike models and numbers of actors, so that it never rests on one bare number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType

from pydantic import PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from rayalign.config.section import Section
from rayalign.errors import InputError

SHIPPED = Path(__file__).parent / "records"
OWN_FILE = "calibration.json"
"""in the folder of caches; RAYALIGN_CACHE names another one"""
SPREAD = 1.25
"""a range is at least so many times wider, to either side, than its middle"""
WIDENED = 2.0
"""by so much the range of another CPU is wider, to either side"""
SIMILAR = 4.0
"""models that differ by at most this factor are alike"""


class Record(Section):
    """One phase of one measured stage."""

    device: str
    phase: str
    share: PositiveFloat
    """ideal over measured seconds"""
    parameters: PositiveInt
    """of the model that does the work"""
    actors: PositiveInt
    """that work in the phase at the same time"""
    prompt: float
    """mean length [tokens]"""
    answer: float
    """mean length [tokens]"""
    data: str
    """format of the prompts"""
    source: str
    """the run, its stage, its iterations, its day"""


@dataclass(frozen=True, slots=True)
class Share:
    """The share of the ideal that a phase reaches."""

    low: float
    high: float
    middle: float
    source: str
    """on what it was measured, or that it was not"""
    measured: bool


UNMEASURED: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "generate": (0.1, 0.7, "assumed"),
        "evaluate": (0.1, 0.5, "assumed as update"),
        "update": (0.1, 0.5, "published MFU of 11 to 36%, PrimeIntellect-ai/prime-rl's committed baselines"),
        "publish": (0.1, 0.8, "published 7 to 9 GB/s over 400 Gbit/s, verl's checkpoint engines"),
        "turn": (0.2, 0.9, "assumed"),
        "other": (0.2, 1.0, "assumed"),
    }
)
"""phase -> the lowest and highest share where nothing was measured on a device, and whence it is"""


class Calibration:
    """All records at hand."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)

    def share(self, device: str, phase: str, parameters: int, actors: int) -> Share:
        """What a phase reaches on a device, with a model of a size in so many actors at a time."""
        records = [record for record in self.records if record.device == device and record.phase == phase]
        if not records:
            return self._unmeasured(device, phase, parameters, actors)
        return _share(_alike(records, parameters, actors))

    def _unmeasured(self, device: str, phase: str, parameters: int, actors: int) -> Share:
        """Of another CPU what CPUs reached, widened; else the published or assumed range."""
        cpus = [record for record in self.records if is_cpu(record.device) and record.phase == phase]
        if is_cpu(device) and cpus:
            cpu_share = _share(_alike(cpus, parameters, actors))
            source = f"not measured on {device}; widened from {cpus[0].device}: {cpu_share.source}"
            return Share(cpu_share.low / WIDENED, cpu_share.high * WIDENED, cpu_share.middle, source, measured=False)
        low, high, source = UNMEASURED[phase]
        return Share(low, high, (low * high) ** 0.5, f"not measured on {device}; {source}", measured=False)

    def lengths(self, data: str) -> list[tuple[float, float]]:
        """Mean prompt and answer of each measured stage on data of a format."""
        lengths = {(record.prompt, record.answer) for record in self.records if record.data == data}
        return sorted(lengths)


def load_calibration() -> Calibration:
    """The records of own runs, and the shipped ones of devices and phases that no own run measured.

    Raises:
        InputError: the file of own records cannot be read.
    """
    own = read_records(own_file()) if own_file().is_file() else []
    measured = {(record.device, record.phase) for record in own}
    shipped: list[Record] = []
    for file in sorted(SHIPPED.glob("*.json")):
        shipped += [record for record in read_records(file) if (record.device, record.phase) not in measured]
    return Calibration([*own, *shipped])


def read_records(file: Path) -> list[Record]:
    """The records of a file.

    Raises:
        InputError: they are not records.
    """
    try:
        return TypeAdapter(list[Record]).validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(f"{file}: these are no calibration records; remove it and calibrate again") from error


def add_records(file: Path, records: Iterable[Record]) -> None:
    """Add records to a file; those of the same source are replaced."""
    new = list(records)
    sources = {record.source for record in new}
    earlier = read_records(file) if file.is_file() else []
    remaining = [record for record in earlier if record.source not in sources]
    file.parent.mkdir(parents=True, exist_ok=True)
    content = [record.model_dump(mode="json") for record in (*remaining, *new)]
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def is_cpu(device: str) -> bool:
    """Whether measurements are of a machine without devices; see `Hardware.calibrated_by`."""
    return device.endswith(" cores")


def own_file() -> Path:
    """Where the records of this machine's runs are kept."""
    cache = Path(os.environ.get("RAYALIGN_CACHE", "~/.cache/rayalign")).expanduser()
    return cache / OWN_FILE


def _alike(records: Sequence[Record], parameters: int, actors: int) -> list[Record]:
    """Those of a model of like size, then those with as many actors at work; all where none is alike."""

    def is_like_size(record: Record) -> bool:
        ratio = record.parameters / parameters
        return 1 / SIMILAR <= ratio <= SIMILAR

    like_size = [record for record in records if is_like_size(record)] or list(records)
    like_actors = [record for record in like_size if (record.actors > 1) == (actors > 1)]
    return like_actors or like_size


def _share(records: Sequence[Record]) -> Share:
    """From the lowest to the highest share of some records, and their median."""
    shares = sorted(record.share for record in records)
    middle = median(shares)
    low, high = min(shares[0], middle / SPREAD), max(shares[-1], middle * SPREAD)
    return Share(low, high, middle, _sources(records), measured=True)


def _sources(records: Sequence[Record]) -> str:
    sources = list(dict.fromkeys(record.source for record in records))
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{sources[0]}{more}"
