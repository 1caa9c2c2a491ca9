"""Which rows a model reads at once. Pure.

    blocks --+-> a line for each block -----------+-> lines of like length are one reading
             +-> end to end in lines of one width +   (longer blocks have lines of their own)

Every way is weighed by what its positions cost, padding included, and by the start of each reading.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from rayalign.models.batching import length_buckets
from rayalign.models.lines import Block, Line, cost

Reading = list[Line]
"""lines that a model reads at once"""
WIDTHS = (*(part / 16 for part in range(6, 17)), 1.25, 1.5, 2.0)
"""widths of lines that are tried, over the width of the model: at 2, attention costs a third of the matrix products"""


def in_one_reading(blocks: Sequence[Block], hidden: int, *, packs: bool) -> Reading:
    """All blocks at once, end to end where that costs less.

    Args:
        hidden: width of the model, against which attention is weighed.
        packs: blocks may be laid end to end.
    """
    ways = [[Line((block,)) for block in blocks]]
    if packs:
        longest = max(block.length for block in blocks)
        ways += [end_to_end(blocks, max(longest, int(width * hidden))) for width in WIDTHS]
    return min(ways, key=lambda way: work([way], hidden, 0))


def in_readings(blocks: Sequence[Block], hidden: int, start: int, *, packs: bool) -> list[Reading]:
    """All blocks, by the way that costs least.

    Args:
        start: tokens that take as long as to start a reading; one of fewer tokens may have any padding.
    """
    ways = [in_buckets(blocks, start)]
    if packs:
        for width in (int(share * hidden) for share in WIDTHS):
            short = [block for block in blocks if block.length <= width]
            long = [block for block in blocks if block.length > width]
            if short:
                ways.append([*alike(end_to_end(short, width), start), *in_buckets(long, start)])
    return min(ways, key=lambda way: work(way, hidden, start))


def in_buckets(blocks: Sequence[Block], least: int) -> list[Reading]:
    """A line for each block; those of one row need no mask and stay apart."""
    readings: list[Reading] = []
    for several in (False, True):
        lines = [Line((block,)) for block in blocks if (len(block.rows) > 1) == several]
        if lines:
            readings += alike(lines, least)
    return readings


def alike(lines: Sequence[Line], least: int) -> list[Reading]:
    """Lines of like length together, so that little is padding; at least so many tokens are read at once."""
    readings: list[Reading] = []
    for places in length_buckets([line.length for line in lines], least):
        readings.append([lines[place] for place in places])
    return readings


def end_to_end(blocks: Sequence[Block], width: int) -> Reading:
    """Blocks in few lines of at most this width: the longest first, each in the line that it fills best."""
    contents: list[list[Block]] = []
    # of each line, with its place; ascending
    rooms: list[tuple[int, int]] = []
    for block in sorted(blocks, key=lambda block: -block.length):
        fit = bisect_left(rooms, (block.length, 0))
        if fit == len(rooms):
            room, place = width, len(contents)
            contents.append([])
        else:
            room, place = rooms.pop(fit)
        contents[place].append(block)
        insort(rooms, (room - block.length, place))
    return [Line(tuple(content)) for content in contents]


def work(readings: Sequence[Reading], hidden: int, start: int) -> float:
    """What readings cost, as `cost` counts."""
    total = 0.0
    for lines in readings:
        span = max(line.length for line in lines)
        causal = all(line.is_plain for line in lines)
        total += cost(start, hidden, causal=True) + len(lines) * cost(span, hidden, causal=causal)
    return total
