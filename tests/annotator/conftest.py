"""Fresh databases of both kinds."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

PASSWORD = "not+for show"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A private PostgreSQL server behind a socket; call it for the URL of a place (a schema) that is new."""
    installed = [shutil.which("postgres"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")))]
    binary = next(filter(None, reversed(installed)), None)
    if binary is None:
        if os.environ.get("CI") in ("true", "1"):
            pytest.fail(
                "no PostgreSQL on this machine; continuous integration installs it (apt-get install postgresql)"
            )
        pytest.skip("needs PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="rayalign-") as name:  # not pytest's, which other users cannot enter
        user, folder = None, Path(name)
        if os.geteuid() == 0:  # which the server refuses to run as
            user = next(u.pw_name for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
            shutil.chown(folder, user)
        (folder / "password").write_text(PASSWORD)
        # Of no encoding, as Debian makes it where no locale is set: the least that a database may offer.
        made = [str(Path(binary).resolve().with_name("initdb")), "--pgdata", f"{folder}/data", "--username", "rayalign"]
        made += ["--pwfile", f"{folder}/password", "--auth", "scram-sha-256", "--locale", "C", "--no-sync"]
        subprocess.run(made, user=user, cwd=folder, check=True, capture_output=True, timeout=120)
        options = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "shared_buffers=16MB"]
        with (folder / "log").open("w") as log:
            command = [binary, "-D", f"{folder}/data", *(word for option in options for word in ("-c", option))]
            server = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            yield lambda: _fresh(folder, server)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once; nobody reads what it wrote
            server.wait(timeout=30)


def _fresh(folder: Path, server: subprocess.Popen[bytes]) -> str:
    schema, deadline = f"t{uuid.uuid4().hex}", time.monotonic() + 60
    while True:
        try:
            with psycopg.connect(host=str(folder), user="rayalign", password=PASSWORD, dbname="postgres") as connection:
                connection.execute(f"CREATE SCHEMA {schema}".encode())
            return f"postgresql://rayalign:not%2Bfor%20show@/postgres?host={folder}&options=-csearch_path%3D{schema}"
        except psycopg.OperationalError:  # it is not up yet
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has opened yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/verdicts.db"
    fresh: Callable[[], str] = request.getfixturevalue("postgres")
    return fresh()
