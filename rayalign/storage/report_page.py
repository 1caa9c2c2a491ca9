"""One HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from rayalign.storage.records import atomic_write

STYLE = Path(__file__).with_name("report.css")
_META = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'


def write_page(path: Path, title: str, sections: Iterable[str]) -> Path:
    """Write the sections as a page in the report's style; empty ones are left out."""
    style = STYLE.read_text(encoding="utf-8")
    head = f"<head>{_META}<title>{escape(title)}</title><style>{style}</style></head>"
    body = "\n".join(section for section in sections if section)
    atomic_write(path, [f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'])
    return path
