from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from rayalign.annotator.judges.verdicts import Usage, Verdict
from rayalign.annotator.store.budget import Budget
from rayalign.annotator.store.database import SCHEMA_TABLE, Database
from rayalign.annotator.store.verdict_store import VerdictStore, key
from rayalign.config.annotators import BudgetConfig
from rayalign.errors import InputError, RayalignError
from rayalign.types import Message, Prompt
from rayalign.waiting import reported

FULL = Verdict(
    1.25, None, "kürzer \0 \ud800", {"logprobs": [-0.5, float("-inf")]}, (0.5, -1.0), Usage(10, 2, 1e-4, 0.5)
)
WRITER = """
import sys
from rayalign.annotator.store.database import Database
from rayalign.annotator.store.verdict_store import VerdictStore
from rayalign.annotator.judges.verdicts import Verdict
store, run, n = VerdictStore(Database(sys.argv[1])), sys.argv[2], 0
while True:
    batch = {f"{run}-{n}-{i}": Verdict(1.0 + n % 11 / 10, explanation="x" * 2000) for i in range(8)}
    store.claim(batch, run, 60.0)
    store.put_many(batch)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
    n += 1
"""

MAKER = """
import sys, time
from rayalign.annotator.store.database import Database
for n in range(100):
    time.sleep(max(0.0, float(sys.argv[2]) + n / 50 - time.time()))
    Database(f"sqlite:///{sys.argv[1]}/{n}.db").close()
"""


@pytest.fixture
def store(url: str) -> Iterator[VerdictStore]:
    opened = VerdictStore(Database(url))
    yield opened
    opened.database.close()


def test_a_wait_for_the_lock_says_who_may_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rayalign.annotator.store.database.reported", partial(reported, first=0.05))
    file = tmp_path / "verdicts.db"
    Database(f"sqlite:///{file}").close()
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.5, other.rollback)
        release.start()
        Database(f"sqlite:///{file}").close()
        release.join()
    expected = (
        f"waiting for the annotator cache sqlite:///{file}: another process holds its lock, or the database is slow"
    )
    assert any(message.startswith(expected) for message in caplog.messages)


def test_the_key_depends_on_what_decides_a_verdict_alone() -> None:
    prompt = Prompt("a", (Message("user", "Why?"),), {"task": "qa", "split": "x"})
    same = Prompt("b", (Message("user", "Why?"),), {"split": "x", "task": "qa"})
    base = key("r1", (prompt, "yes", "no"), 0)
    assert base == key("r1", (same, "yes", "no"), 0)
    assert len(base) == 64
    others = [
        key("r2", (prompt, "yes", "no"), 0),
        key("r1", (prompt, "no", "yes"), 0),
        key("r1", (prompt, "yes", "no"), 1),
        key("r1", (prompt, 'yes", "no', ""), 0),
        key("r1", (Prompt("a", (Message("system", "Why?"),), prompt.meta), "yes", "no"), 0),
        key("r1", (Prompt("a", prompt.messages, {"task": "qa"}), "yes", "no"), 0),
    ]
    assert len({base, *others}) == 7


def test_verdicts_come_back_whole_and_the_first_stays(store: VerdictStore, url: str) -> None:
    store.put_many({"a": FULL, "b": Verdict(2.0, completion="Output (b)")})
    store.put_many({"a": Verdict(2.0), "c": Verdict(1.5)})
    again = VerdictStore(Database(url))
    assert again.get_many(["a", "b", "c", "d"]) == {
        "a": FULL,
        "b": Verdict(2.0, completion="Output (b)"),
        "c": Verdict(1.5),
    }
    again.database.close()


@pytest.mark.parametrize("preference", [None, float("nan"), 0.0])
def test_a_failure_is_never_kept_nor_what_came_with_it(store: VerdictStore, preference: float | None) -> None:
    with pytest.raises(ValueError, match="only verdicts with a preference"):
        store.put_many({"a": Verdict(1.0), "b": Verdict(preference, "refused")})
    assert store.get_many(["a", "b"]) == {}


def test_many_keys_at_once(store: VerdictStore) -> None:
    verdicts = {f"k{i}": Verdict(1.0 + i % 2) for i in range(4500)}
    assert store.claim(verdicts, "me", 60.0) == set(verdicts)
    store.put_many(verdicts)
    assert store.get_many([*verdicts, "absent"]) == verdicts


def test_a_claim_is_exclusive_until_released_or_run_out(url: str) -> None:
    now = [1000.0]
    store = VerdictStore(Database(url), clock=lambda: now[0])
    assert store.claim(["a", "b"], "one", 10.0) == {"a", "b"}
    assert store.claim(["b", "c"], "two", 10.0) == {"c"}
    assert store.claim(["a"], "one", 10.0) == {"a"}, "its own, renewed"
    store.release(["a", "b"], "two")
    assert store.claim(["a", "b"], "two", 10.0) == set()
    store.put_many({"a": Verdict(1.0)})
    store.release(["a", "b"], "one")
    assert store.claim(["a", "b"], "two", 10.0) == {"b"}
    now[0] += 10.5
    assert store.claim(["b", "c"], "three", 10.0) == {"b", "c"}
    store.release(["b"], "two")
    assert store.claim(["b"], "four", 10.0) == set()
    store.database.close()


def test_leases_begin_when_the_lock_is_held(tmp_path: Path) -> None:
    def clock() -> float:
        other = closing(sqlite3.connect(tmp_path / "v.db", timeout=0.0))
        with other as connection, pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
        return 1000.0

    database = Database(f"sqlite:///{tmp_path / 'v.db'}")
    assert VerdictStore(database, clock=clock).claim(["a"], "me", 10.0) == {"a"}
    Budget(database, BudgetConfig(tokens=9), clock=clock).reserve("judge", "ann", Usage(1))
    database.close()


def test_waiting_ends_with_the_verdict_the_release_or_the_deadline(store: VerdictStore) -> None:
    store.claim(["a", "b", "c"], "other", 60.0)

    async def work() -> None:
        await asyncio.sleep(0.05)
        store.put_many({"a": Verdict(1.0)})
        store.release(["a", "b"], "other")

    async def waiting() -> None:
        worker = asyncio.create_task(work())
        assert await store.wait(["a", "b"], 30.0) == {"a": Verdict(1.0)}
        await worker
        assert store.claim(["a", "b"], "me", 60.0) == {"b"}
        begun = time.monotonic()
        assert await store.wait(["c"], 0.1) == {}
        assert 0.1 <= time.monotonic() - begun < 30.0, "its own deadline, not the end of the claim"

    asyncio.run(waiting())


def test_threads_pay_for_each_pair_once(store: VerdictStore) -> None:
    keys = [f"k{i}" for i in range(60)]
    paid: list[str] = []

    def annotate(owner: int) -> dict[str, Verdict]:
        found: dict[str, Verdict] = {}
        while missing := set(keys) - found.keys():
            ours = store.claim(missing, f"o{owner}", 60.0)
            for k in sorted(ours):
                paid.append(k)
                store.put_many({k: Verdict(1.0)})
            store.release(ours, f"o{owner}")
            found |= asyncio.run(store.wait(missing, 20.0))
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(annotate, range(4)))
    assert sorted(paid) == sorted(keys)
    assert all(found.keys() == set(keys) for found in results)


def test_what_was_reported_as_stored_outlives_kill_9(url: str) -> None:
    reported: dict[str, int] = {}
    for run in "abc":
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, run], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert writer.stdout is not None
        assert [writer.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
        # further on in a different place of the loop each time
        threading.Timer(0.05 + 0.037 * ord(run) % 0.1, writer.send_signal, (signal.SIGKILL,)).start()
        lines = writer.stdout.read().splitlines()
        assert writer.wait(30) == -signal.SIGKILL
        reported[run] = max([1, *(int(line) for line in lines)])
    store = VerdictStore(Database(url))
    for run, last in reported.items():
        for n in range(last + 2):
            found = store.get_many([f"{run}-{n}-{i}" for i in range(8)])
            # the batch under way when the kill came may be there, but only whole
            assert len(found) == 8 or (n > last and not found)
            assert all(v == Verdict(1.0 + n % 11 / 10, explanation="x" * 2000) for v in found.values())
    store.database.close()


def test_processes_may_open_a_new_database_together(url: str) -> None:
    opening = "import sys\nfrom rayalign.annotator.store.database import Database\nDatabase(sys.argv[1]).close()"
    started = [subprocess.Popen([sys.executable, "-c", opening, url]) for _ in range(3)]
    assert [process.wait(300) for process in started] == [0, 0, 0]


BAD = ("nonsense", "sqlite://", "mysql://host/db", "sqlite:////proc/none/x.db", "postgresql+pg8000://host/db")
TELLING = ("postgresql://me:secret@host:secret/db", "postgresql://me:not@secret@host/db")


@pytest.mark.parametrize("bad", [*BAD, *TELLING])
def test_a_url_that_cannot_be_used_is_refused(bad: str) -> None:
    with pytest.raises(InputError, match="annotator cache: .*; ") as told:
        Database(bad)
    assert "secret" not in str(told.value)


def test_trouble_with_the_server_is_one_sentence_without_the_password(postgres: Callable[[], str]) -> None:
    url = postgres()
    for wrong in (url.replace(":not", ":secret"), url.replace(":not%2Bfor%20show", "") + "&password=secret"):
        with pytest.raises(RayalignError, match="annotator cache .*password authentication failed.*; ") as told:
            Database(wrong)
        assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_connections_that_the_server_ended_are_made_anew(postgres: Callable[[], str]) -> None:
    url = postgres()
    store, database = VerdictStore(Database(url)), Database(url)
    store.put_many({"a": Verdict(1.0)})
    with database.reading() as connection:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.exec_driver_sql(f"{ended} AND pid <> pg_backend_pid()")
    assert store.get_many(["a", "b"]) == {"a": Verdict(1.0)}
    assert store.claim(["a", "b"], "me", 60.0) == {"b"}
    store.database.close()
    database.close()


def test_one_transaction_writes_at_a_time(url: str) -> None:
    database, store = Database(url), VerdictStore(Database(url))
    with ThreadPoolExecutor(1) as pool:
        with database.writing():
            other = pool.submit(store.claim, ["a"], "me", 60.0)
            assert not wait([other], timeout=0.5).done
        assert other.result(30) == {"a"}
    database.close()
    store.database.close()


def test_trouble_with_the_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    path.write_text("not a database, but long enough to be read as one" * 40)
    with pytest.raises(RayalignError, match="not a database; "):
        Database(f"sqlite:///{path}")


def test_a_database_of_another_schema_is_refused(store: VerdictStore, url: str) -> None:
    other = Database(url)
    with other.writing() as connection:
        connection.execute(SCHEMA_TABLE.update().values(version=99))
    other.close()
    with pytest.raises(InputError, match="has schema 99"):
        Database(url)


def test_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    start = str(time.time() + 3)
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path), start], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [maker.communicate(timeout=300)[1] for maker in makers] == [""] * 4
