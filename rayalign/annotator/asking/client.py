"""The Python client of the annotator service; it retries while the service is full, or away after it has answered.

A retry loses nothing and pays nothing twice: requests are idempotent by content.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

from rayalign.annotator.asking.api import Annotation, AnnotatorInfo, Estimate, Item, PairItem, RankReply, ScoreReply
from rayalign.annotator.endpoints.parsing import printable, retry_after
from rayalign.annotator.judges.verdicts import Pair
from rayalign.errors import DeadlineError, InputError, RayalignError
from rayalign.types import Prompt
from rayalign.waiting import AGAIN

logger = logging.getLogger(__name__)
_QUESTION = tuple(Item.model_fields.keys() - {"id"})
"""fields of an item that say which prompt it belongs to"""
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""statuses after which the client retries; Serve replies 500 when a replica dies under a request"""
_CONNECT = 2.0
"""longest time to connect [s]"""
_FIRST_CONTACT = 5.0
"""longest time in which nobody listens at the address, as long as the service has never answered there [s]"""
TOKEN = "RAYALIGN_TOKEN"
"""the environment variable that holds the client's own token"""


class AnnotatorClient:
    """One annotator of one service; implements `Judge` by `compare`.

    Args:
        url: of the service, such as http://127.0.0.1:8900.
        annotator: a name of the pool, or `pool`.
        token: the bearer token; None: RAYALIGN_TOKEN of the environment, which may be unset.
        deadline: seconds for a request with all its retries; for all requests of one call of `scores`.
        rows: pairs of one request.
        connections: requests at the same time.

    Raises:
        InputError: the URL is not one.
    """

    def __init__(
        self,
        url: str,
        annotator: str = "pool",
        *,
        token: str | None = None,
        deadline: float = 600.0,
        rows: int = 256,
        connections: int = 4,
    ) -> None:
        import httpx

        token = token or os.environ.get(TOKEN)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._annotator = annotator
        self._deadline = deadline
        self._rows = rows
        self._connections = connections
        self._has_answered = False
        self._next_report = 0.0
        try:
            self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers)
            if self._http.base_url.scheme not in ("http", "https"):
                raise httpx.InvalidURL("it does not start with http:// or https://")
        except httpx.InvalidURL as error:
            raise InputError(f"{url!r} is no address ({error}); give one such as http://127.0.0.1:8900") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def annotators(self) -> list[AnnotatorInfo]:
        """The annotators of the pool."""
        return [AnnotatorInfo(**row) for row in self._ask("GET", "/v1/annotators")["annotators"]]

    def annotate(
        self, rows: Iterable[PairItem], *, seed: int = 0, both_orders: bool = False, flip: float = 0.0
    ) -> Iterator[Annotation]:
        """One annotation for each pair, in their order, with their place as index; few rows are in memory at a time."""
        options = {"annotator": self._annotator, "seed": seed, "both_orders": both_orders, "flip": flip}

        def annotate_batch(batch: tuple[int, list[PairItem]]) -> list[Annotation]:
            start, items = batch
            body = {**options, "pairs": [item.model_dump(exclude_unset=True, mode="json") for item in items]}
            replies = self._ask("POST", "/v1/preferences", body)["annotations"]
            return [Annotation(**{**reply, "index": start + reply["index"]}) for reply in replies]

        with ThreadPoolExecutor(self._connections, thread_name_prefix="annotator") as workers:
            parts = batches(rows, self._rows)
            while ahead := list(islice(parts, 2 * self._connections)):
                for annotations in workers.map(annotate_batch, ahead):
                    yield from annotations

    def scores(self, items: Sequence[Mapping[str, Any]]) -> list[ScoreReply]:
        """One score for each item, a mapping with the fields of `ScoreItem`; answers to one prompt stay together."""
        end = time.monotonic() + self._deadline

        def score_batch(batch: tuple[int, list[Mapping[str, Any]]]) -> list[ScoreReply]:
            start, rows = batch
            body = {"annotator": self._annotator, "items": rows}
            replies = self._ask("POST", "/v1/scores", body, end)["scores"]
            return [ScoreReply(**{**reply, "index": start + reply["index"]}) for reply in replies]

        with ThreadPoolExecutor(self._connections, thread_name_prefix="annotator") as workers:
            return list(chain.from_iterable(workers.map(score_batch, _by_prompt(items, self._rows))))

    def rankings(self, items: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[RankReply]:
        """One order for each item, a mapping with the fields of `RankItem`."""
        end = time.monotonic() + self._deadline
        longest = max((len(item.get("outputs", ())) for item in items), default=2)  # the service reports missing ones
        pairs = longest * (longest - 1) // 2

        def rank_batch(batch: tuple[int, list[Mapping[str, Any]]]) -> list[RankReply]:
            start, rows = batch
            body = {"annotator": self._annotator, "seed": seed, "items": rows}
            replies = self._ask("POST", "/v1/rankings", body, end)["rankings"]
            return [RankReply(**{**reply, "index": start + reply["index"]}) for reply in replies]

        with ThreadPoolExecutor(self._connections, thread_name_prefix="annotator") as workers:
            parts = batches(items, max(1, self._rows // max(1, pairs)))
            return list(chain.from_iterable(workers.map(rank_batch, parts)))

    def estimate(self, rows: Iterable[PairItem], **options: Any) -> Estimate:
        """The estimated cost of `annotate` with the same rows and options now."""
        import json

        total, count = Estimate(), 0
        hashes: set[int] = set()

        def distinct() -> Iterator[dict[str, Any]]:
            nonlocal count
            for row in rows:
                count += 1
                pair = row.model_dump(exclude={"id"}, exclude_unset=True, mode="json")
                pair_hash = hash(json.dumps(pair))
                if pair_hash not in hashes:
                    hashes.add(pair_hash)
                    yield pair

        for _, part in batches(distinct(), self._rows):
            body = {"annotator": self._annotator, "pairs": part, **options}
            total += Estimate(**self._ask("POST", "/v1/estimate", body))
        return total.model_copy(update={"pairs": count})

    def compare(self, pairs: Sequence[Pair], *, seed: int, flip: float = 0.0) -> list[float | None]:
        """As `Annotator.compare`."""
        rows = [item_of(prompt, first, second) for prompt, first, second in pairs]
        return [annotation.preference for annotation in self.annotate(rows, seed=seed, flip=flip)]

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, end: float | None = None
    ) -> dict[str, Any]:
        """The reply's body; retries while the service is busy or away, until the deadline or `end`."""
        import httpx

        # A request that was lost with its replica is sent again in time, and goes on from the cache. Scores of reward
        # models have no cache, so a retry would do the same work twice: one attempt has all the time.
        longest = self._deadline if end else self._deadline / 4
        start = time.monotonic()
        end = end or start + self._deadline
        for attempt in range(1_000_000):
            limit = max(0.1, min(longest, end - time.monotonic()))
            timeout = httpx.Timeout(limit, connect=min(_CONNECT, limit))
            try:
                reply = self._http.request(method, path, json=body, timeout=timeout)
                self._has_answered = True
                starting = reply.status_code == 404 and not reply.content.startswith(b"{")
                if reply.status_code not in _BUSY and not starting:  # Serve knows no route before the application is up
                    return _body(reply.status_code, reply.content, str(reply.url))
                trouble = printable(f"{reply.status_code} {reply.text[:200]}")
                wait = retry_after(reply.headers.get("Retry-After"), time.time()) or _backoff(attempt)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                trouble, wait = f"no connection: {error or type(error).__name__}", _backoff(attempt)
                if not self._has_answered:
                    end = min(end, start + _FIRST_CONTACT)
            except httpx.TransportError as error:
                trouble, wait = f"{type(error).__name__}: {error}", _backoff(attempt)
            self._report(path, trouble)
            if time.monotonic() + wait > end:
                break
            time.sleep(wait * random.uniform(1.0, 1.25))  # so that clients refused together do not return together
        raise DeadlineError(
            f"{self._url_of(path)}: no answer within {round(end - start, 1):g} s ({trouble}); "
            "see that `rayalign serve` is running there, or raise the deadline"
        )

    def _url_of(self, path: str) -> str:
        return str(self._http.base_url).rstrip("/") + path

    def _report(self, path: str, trouble: str) -> None:
        """Log what is waited for, now and then."""
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + AGAIN
            logger.warning("waiting for %s: %s", self._url_of(path), trouble)


def item_of(prompt: Prompt, first: str, second: str) -> PairItem:
    """A pair of the package's own types in the form of the API."""
    return PairItem(messages=prompt.messages, meta=dict(prompt.meta), output_1=first, output_2=second)


def _body(status: int, content: bytes, url: str) -> dict[str, Any]:
    import json

    try:
        body: dict[str, Any] = json.loads(content)
    except ValueError:
        raise RayalignError(f"{url} answered {status} with what is not JSON; is it an annotator service?") from None
    if status < 400:
        return body
    from rayalign.annotator.store.budget import BudgetError

    problem = body.get("error", {})
    text = printable(str(problem.get("message", content[:200])), most=2000)
    message = f"{url}: {text} ({status} {problem.get('code', '')})"
    raise BudgetError(message) if status == 402 else InputError(message)


def batches(rows: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    """Rows in lists of at most `size`, each with the place of its first."""
    start, rest = 0, iter(rows)
    while batch := list(islice(rest, size)):
        yield start, batch
        start += len(batch)


def _by_prompt(items: Sequence[Mapping[str, Any]], size: int) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Items in lists of about `size`, cut where the prompt changes, each with the place of its first."""
    batch: list[Mapping[str, Any]] = []
    for place, item in enumerate(items):
        changes = batch and any(batch[-1].get(key) != item.get(key) for key in _QUESTION)
        if len(batch) >= size and changes:
            yield place - len(batch), batch
            batch = []
        batch.append(item)
    if batch:
        yield len(items) - len(batch), batch


def _backoff(attempt: int) -> float:
    return min(10.0, 0.2 * 2.0 ** min(attempt, 10))
