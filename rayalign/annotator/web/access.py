"""Access to the service: bearer tokens, rates, sizes, and room for rows in progress."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from rayalign.annotator.asking.api import Problem
from rayalign.annotator.store.budget import BudgetError
from rayalign.config import AccessConfig
from rayalign.errors import InputError, RayalignError

ANYONE = "anyone"
"""the client's name where no token is needed"""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""names of this machine that other machines cannot reach"""
CLIENT: ContextVar[str] = ContextVar("client", default=ANYONE)
"""the client that the request's token names"""
_MEMORY = 10.0
"""seconds over which the speed of the service is averaged"""


class Refused(RayalignError):
    """A request whose reply is a problem with a status."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None, retry_after: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(code=code, message=message, field=field)
        self.headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after else {}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


def known_tokens(config: AccessConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """Hash of each token -> its client, from the environment and the file.

    Raises:
        InputError: a malformed variable, or a token file that is missing or malformed.
    """
    names = {digest(token): name for name, token in _pairs(environment.get(config.token_variable, ""))}
    if config.token_file is not None:
        names |= _hashes(Path(config.token_file))
    for name in names.values():
        if not name.isprintable():  # no database keeps a NUL, or bytes that are no UTF-8
            raise InputError(f"tokens: the name {ascii(name)} holds characters that do not print; give another")
    return names


def refuse_open(config: AccessConfig, environment: Mapping[str, str], what: str) -> None:
    """InputError unless there is a token, or the file admits anyone."""
    if not config.open and not known_tokens(config, environment):
        raise InputError(
            f"{what} lets other machines ask, but there is no token; give {config.token_variable} or access.token_file "
            "(see `rayalign token NAME`), or let anyone ask by `access: {open: true}`"
        )


class Access:
    """Tokens, as hashes only, and each client's rate.

    Args:
        host: the address that the service is bound to.
    """

    def __init__(
        self,
        config: AccessConfig,
        tokens: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        host: str = "127.0.0.1",
    ) -> None:
        self._names = tokens
        self._hosts = None if tokens or config.open else LOOPBACK | {host}
        self._rate = config.requests_per_second
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    @property
    def open(self) -> bool:
        """True where no token is needed."""
        return not self._names

    def addressed(self, host: str | None) -> None:
        """Check the Host header: without tokens, a page of any site could point a name of its own here (DNS rebinding).

        Raises:
            Refused: 403 under any other name than this machine's.
        """
        if self._hosts is None:
            return
        try:
            name = urlsplit(f"//{host or ''}").hostname
        except ValueError:
            name = None
        if name not in self._hosts:
            allowed = ", ".join(sorted(self._hosts))
            message = (
                f"without tokens only these are answered as Host: {allowed}; give tokens, or `access: {{open: true}}`"
            )
            raise Refused(403, "unknown_host", message)

    def client(self, authorization: str | None) -> str:
        """The client of an Authorization header; counts one request of its rate.

        Raises:
            Refused: 401 without a known token, 429 above the rate.
        """
        client = ANYONE if self.open else self._known(authorization or "")
        self._use(client)
        return client

    def _known(self, authorization: str) -> str:
        scheme, _, token = authorization.partition(" ")
        sent = digest(token.strip()) if scheme.lower() == "bearer" else ""
        # Every hash is compared, so that the time shows nothing.
        names = [name for stored, name in self._names.items() if hmac.compare_digest(stored, sent)]
        if not names:
            self._use(ANYONE)  # guesses have a rate too
            raise Refused(401, "unauthorized", "a known token is needed; send it as `Authorization: Bearer TOKEN`")
        return names[0]

    def _use(self, client: str) -> None:
        if self._rate is None:
            return
        now = self._clock()
        tokens, then = self._buckets.get(client, (max(1.0, self._rate), now))
        tokens = min(max(1.0, self._rate), tokens + (now - then) * self._rate)
        if tokens < 1.0:
            wait = (1.0 - tokens) / self._rate
            raise Refused(429, "rate_limited", f"rate limit of {self._rate:g} requests a second", retry_after=wait)
        self._buckets[client] = (tokens - 1.0, now)


class Admission:
    """Room for rows in progress or waiting; a request without room is refused at once and may be retried."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._speed = 0.0  # rows a second, lately
        self._last = clock()
        self.rows = 0

    @contextmanager
    def room(self, rows: int) -> Iterator[None]:
        """Hold room for so many rows.

        Raises:
            Refused: 413 for more than there can ever be, 429 for more than there is now.
        """
        if rows > self._limit:
            raise Refused(
                413, "too_large", f"{rows} rows are more than the {self._limit} of the queue; send fewer at once"
            )
        if self.rows + rows > self._limit:
            wait = min(60.0, max(1.0, self.rows / self._speed)) if self._speed else 1.0
            raise Refused(
                429, "rate_limited", f"rate limit: {self.rows} of {self._limit} rows are in progress", retry_after=wait
            )
        self.rows += rows
        try:
            yield
        finally:
            self.rows -= rows
            self._note(rows)

    def _note(self, rows: int) -> None:
        now = self._clock()
        gap, self._last = now - self._last, now
        decay = math.exp(-gap / _MEMORY)
        self._speed = self._speed * decay + rows / _MEMORY


def refused(error: RayalignError | TimeoutError) -> Refused:
    """The refusal that replies to an error."""
    if isinstance(error, TimeoutError) and not isinstance(error, RayalignError):
        message = "not all verdicts came within the service's request_timeout; ask again, what is done is kept"
        return Refused(503, "unavailable", message, retry_after=1)
    if isinstance(error, Refused):
        return error
    if isinstance(error, BudgetError):
        return Refused(402, "budget", str(error))
    if isinstance(error, InputError):
        unknown = str(error).startswith(("annotator: there is no", "annotator: no annotator"))
        status, code = (404, "unknown_annotator") if unknown else (422, "invalid_request")
        return Refused(status, code, str(error), field="annotator" if str(error).startswith("annotator:") else None)
    return Refused(503, "unavailable", str(error), retry_after=1)


def digest(token: str) -> str:
    """The hash that stands for a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, colon, token = part.partition(":")
        if not (name and colon and len(token) >= 8 and token.isascii()):  # a header is ASCII
            rule = "each token of 8 characters or more, all of them ASCII"
            raise InputError(f"tokens: write name:token pairs separated by commas, {rule}")
        yield name, token


def _hashes(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"access.token_file: {path} does not exist; make its lines with `rayalign token NAME`")
    names: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.strip().rpartition(" ")
        if not name or not re.fullmatch("[0-9a-fA-F]{64}", stored):
            raise InputError(f"{path}:{number}: not a line of `rayalign token NAME` (name, then 64 hex digits)")
        names[stored.lower()] = name
    return names
