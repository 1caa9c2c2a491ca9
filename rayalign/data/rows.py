"""Encoded rows on disk: written once as they come, read as they are needed, by every rank.

    tokens.bin   int32   the token ids of all rows, one row after another
    mask.bin     uint8   1 for each token that is trained on
    index.bin    RECORD  of each row: where its tokens start, how many they are, and whose they are
    digest               of the three, which names what was made from these rows

The index alone is read whole (52 bytes a row); tokens come from the page cache, so memory does not grow with the rows.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rayalign.data.collate import EncodedRow, padded
from rayalign.types import Rollouts

PAD_ID = 0
"""masked everywhere, so any token does"""
RECORD = np.dtype(
    [
        ("start", "<i8"),
        ("length", "<i4"),
        ("group", "<i8"),
        ("prompt", "<u8"),
        ("score", "<f8"),
        ("preference", "<f8"),
        ("desirable", "<f8"),
    ]
)


def write_rows(folder: Path, rows: Iterable[EncodedRow]) -> int:
    """Write rows into an empty folder; how many there were."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digest = hashlib.blake2b(digest_size=16)
    start = count = 0
    with (
        (folder / "tokens.bin").open("wb") as tokens_file,
        (folder / "mask.bin").open("wb") as mask_file,
        (folder / "index.bin").open("wb") as index_file,
    ):
        for row in rows:
            record = np.array(_record(row, start), dtype=RECORD)
            tokens = np.array(row.token_ids, dtype="<i4")
            mask = np.array(row.mask, dtype=np.uint8)
            for file, array in ((index_file, record), (tokens_file, tokens), (mask_file, mask)):
                content = array.tobytes()
                file.write(content)
                digest.update(content)
            start += len(tokens)
            count += 1
    (folder / "digest").write_text(digest.hexdigest(), encoding="utf-8")
    return count


def _record(row: EncodedRow, start: int) -> tuple[int, int, int, int, float, float, float]:
    prompt = int.from_bytes(hashlib.blake2b(row.prompt.encode(), digest_size=8).digest(), "little")
    score, preference, desirable = (
        math.nan if value is None else value for value in (row.score, row.preference, row.desirable)
    )
    return start, len(row.token_ids), row.group, prompt, score, preference, desirable


class RowFile:
    """The rows of one folder, by number."""

    def __init__(self, folder: Path) -> None:
        self.digest = (folder / "digest").read_text(encoding="utf-8")
        self._index = np.fromfile(folder / "index.bin", dtype=RECORD)
        self._tokens = _mapped(folder / "tokens.bin", "<i4")
        self._mask = _mapped(folder / "mask.bin", "u1")
        self.starts_N = torch.from_numpy(self._index["start"].copy())
        self.lengths_N = torch.from_numpy(self._index["length"].astype(np.int64))
        self.group_N = torch.from_numpy(self._index["group"].astype(np.int64))
        self.scores_N = torch.from_numpy(self._index["score"].copy())
        self.preferences_N = torch.from_numpy(self._index["preference"].copy())
        self.desirable_N = torch.from_numpy(self._index["desirable"].copy())

    def __len__(self) -> int:
        return len(self._index)

    def collate(self, numbers_B: Tensor) -> Rollouts:
        """The rows of these numbers, padded on the right to the longest of them."""
        numbers = numbers_B.numpy()
        records = self._index[numbers]
        spans = [
            slice(start, start + length) for start, length in zip(records["start"], records["length"], strict=True)
        ]
        rollouts = padded(
            self.lengths_N[numbers_B],
            torch.from_numpy(np.concatenate([self._tokens[span] for span in spans])),
            torch.from_numpy(np.concatenate([self._mask[span] for span in spans])),
            group_B=self.group_N[numbers_B],
            scores_B=self.scores_N[numbers_B].float(),
            pad_id=PAD_ID,
        )
        rollouts.preferences_B = self.preferences_N[numbers_B].float()
        rollouts.desirable_B = self.desirable_N[numbers_B].float()
        return rollouts

    def prompts(self) -> Tensor:
        """Of each row the number of its prompt, in the order in which prompts first come."""
        _, first, inverse = np.unique(self._index["prompt"], return_index=True, return_inverse=True)
        place = np.empty(len(first), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(first))
        return torch.from_numpy(place[inverse])


@dataclass(frozen=True, slots=True)
class Side:
    """Rows that are trained on, or rows held out: ascending numbers, and which of them stay together."""

    numbers_B: Tensor
    unit_B: Tensor
    lengths_B: Tensor

    def __len__(self) -> int:
        return len(self.numbers_B)


def split(rows: RowFile, keep_B: Tensor, holdout: float, seed: int, *, singly: bool) -> tuple[Side, Side]:
    """The rows to train on and those held out; all rows of a prompt go to one side.

    Args:
        keep_B: True for each row that is used at all.
        holdout: share of the prompts that is held out.
        singly: each row is a unit of its own; else a group is.
    """
    prompt_B = rows.prompts()
    prompts = int(prompt_B.max()) + 1 if len(rows) else 0
    heldout_B = heldout_prompts(prompts, holdout, seed)[prompt_B]
    sides = (keep_B & ~heldout_B, keep_B & heldout_B)
    return _side(rows, sides[0], singly), _side(rows, sides[1], singly)


def heldout_prompts(prompts: int, holdout: float, seed: int) -> Tensor:
    """True for each prompt that is held out, in the order in which prompts first occur."""
    order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
    heldout_P = torch.zeros(prompts, dtype=torch.bool)
    heldout_P[order[: int(prompts * holdout)]] = True
    return heldout_P


def _side(rows: RowFile, chosen_B: Tensor, singly: bool) -> Side:
    numbers_B = chosen_B.nonzero().squeeze(1)
    unit_B = numbers_B if singly else rows.group_N[numbers_B]
    return Side(numbers_B, unit_B, rows.lengths_N[numbers_B])


def _mapped(path: Path, kind: str) -> np.ndarray:
    """A file as an array; an empty one cannot be mapped."""
    if not path.stat().st_size:
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")
