"""Sections of hand-written pages that a script writes."""

from __future__ import annotations

from pathlib import Path


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: generated -->` and `<!-- NAME: end -->`."""
    content = page.read_text()
    begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
    if begin not in content or end not in content:
        raise ValueError(f"{page} has no section {name}")
    before, rest = content.split(begin, 1)
    _, after = rest.split(end, 1)
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")
