"""Limits of a request's body that hold before it is parsed.

A parsed value takes up to thirty times the memory of its text, so bytes alone bound neither the time nor the memory of
a request: one megabyte of `{},` is 350,000 objects.
"""

from __future__ import annotations

import json

from rayalign.annotator.web.access import Refused

MAX_VALUES = 2**19
"""values of one body: rows, texts, numbers, objects"""
_MAX_QUOTES = 4 * MAX_VALUES
"""around the key and the text of each value"""
_STRUCTURE = b'",[{'
_OTHER_BYTES = bytes(byte for byte in range(256) if byte not in _STRUCTURE)


def check_values(body: bytes) -> None:
    """Refuse a JSON text with too many values; what is no JSON passes, since the parser stops where it ends.

    Raises:
        Refused: 400 for another encoding than UTF-8, 413 for more than `MAX_VALUES` values.
    """
    if not json.detect_encoding(body).startswith("utf-8"):
        raise Refused(400, "invalid_json", "the body is JSON in another encoding than UTF-8; send it in UTF-8")
    if _values(body) > MAX_VALUES:
        raise Refused(413, "too_large", f"the body holds more than {MAX_VALUES} values; send less at once")


def _values(body: bytes) -> int:
    """At least as many values as a parser would make: one, and one for each comma and each opening bracket."""
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = unescaped.translate(None, _OTHER_BYTES)
    quotes = structure.count(b'"')
    if quotes > _MAX_QUOTES:
        return quotes
    outside_strings = structure.split(b'"')[::2]
    return 1 + sum(map(len, outside_strings))
