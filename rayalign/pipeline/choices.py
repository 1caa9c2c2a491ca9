"""What a run chose by itself, such as the path of weights: logged when it is first chosen, and when it changes."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


class Choices:
    """The choices of one run, which each of its stages makes again."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}

    def log(self, what: str, choice: str, reason: str) -> None:
        """Log a choice unless it is the same as before.

        Args:
            what: what was chosen, such as `weights travel by`.
        """
        text = f"{what} {choice} ({reason})"
        if self._latest.get(what) != text:
            logger.info("%s", text)
        self._latest[what] = text
