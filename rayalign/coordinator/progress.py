"""What each rank of an offline loop is doing, for the process that waits for it.

    rank      main thread    report("step 12")         the beat thread puts it into ranks/0.json every few seconds
    driver    Watch.check    reads ranks/*.json        raises where a rank is silent, or reports nothing new

The files lie in the stage's folder, which all machines share. Only changes count, so clocks need not agree.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayalign.actors.place import Place
from rayalign.errors import DeadlineError, LostError

LONGEST_INTERVAL = 5.0
"""seconds between two beats, at most"""
Beat = Mapping[str, Any]


def _interval(timeout: float) -> float:
    return min(LONGEST_INTERVAL, timeout / 10)


class Heartbeat:
    """The rank's side; a daemon thread beats while the main thread works or waits."""

    def __init__(self, folder: Path, rank: int, timeout: float, address: str = "", node: str = "") -> None:
        """
        Args:
            address: of this machine, and Ray's id of it; empty where the driver knows them by other ways.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._address, self._node = address, node
        self._path = folder / f"{rank}.json"
        self._interval = _interval(timeout)
        self._activity, self._reports, self._beats = "the start", 0, 0
        self._ready = False
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def report(self, activity: str) -> None:
        """Note what the loop begins now, as a noun: it is what the driver names where the loop gets no further."""
        self._activity, self._reports = activity, self._reports + 1

    def ready(self) -> None:
        """Note, at once, that everything is loaded: from now on the short deadline holds."""
        self._ready = True
        self._write()

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Beat no more."""
        self._ended.set()
        self._thread.join(timeout=LONGEST_INTERVAL)

    def _beat(self) -> None:
        self._write()
        while not self._ended.wait(self._interval):
            self._write()

    def _write(self) -> None:
        with self._writing:
            self._beats += 1
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._content()), encoding="utf-8")
            temporary.replace(self._path)

    def _content(self) -> Beat:
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "address": self._address,
            "node": self._node,
            "world": int(os.environ.get("WORLD_SIZE", "1")),
            "activity": self._activity,
            "ready": self._ready,
            "reports": self._reports,
            "beats": self._beats,
        }


@dataclass(slots=True)
class _Rank:
    """What the driver last saw of a rank, and when it last changed [s of the driver's clock]."""

    beat: Beat
    beaten: float
    reported: float


class Watch:
    """The driver's side: the deadline of a loop that runs elsewhere."""

    def __init__(
        self,
        folder: Path,
        role: str,
        ranks: int,
        *,
        start_timeout: float,
        timeout: float,
        heartbeat: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            heartbeat: seconds without a beat after which a rank that has loaded is lost, whatever the timeout.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._role, self._clock = folder, role, clock
        self._start_timeout, self._timeout, self._heartbeat = start_timeout, timeout, heartbeat
        start = clock()
        self._ranks = {rank: _Rank({}, start, start) for rank in range(ranks)}

    @property
    def ready(self) -> bool:
        """True once every rank has loaded what it needs."""
        return all(rank.beat.get("ready") for rank in self._present().values())

    def name(self, number: int) -> str:
        """A rank, with the process that it last beat from."""
        beat = self._ranks[number].beat if number in self._ranks else {}
        process = f" (pid {beat['pid']} on {beat['host']})" if beat else ""
        return f"train:{self._role} rank {number}{process}"

    def place(self, number: int) -> Place | None:
        """Where a rank runs, if it said so."""
        beat = self._ranks[number].beat if number in self._ranks else {}
        return Place(beat["pid"], beat["address"], 0, node=beat["node"]) if beat.get("node") else None

    def check(self) -> None:
        """Look at every rank.

        Raises:
            LostError: one has no heartbeat, or has not run for the timeout, or for the start timeout while it loads.
            DeadlineError: one has not got on for so long; with its rank and what it waits for.
        """
        now = self._clock()
        for number, rank in self._ranks.items():
            self._look(number, rank, now)
        present = self._present()
        for number in self._ranks.keys() - present.keys():  # its time begins when it takes part
            self._ranks[number].beaten = self._ranks[number].reported = now
        silent = [number for number, rank in present.items() if self._is_silent(rank, now)]
        if silent:
            raise LostError(self._silent(silent[0], now - self._ranks[silent[0]].beaten))
        late = [number for number, rank in present.items() if self._is_late(rank, now)]
        if not late:
            return
        # The ranks wait for each other, so the silent one is to blame, whichever was noticed first.
        number = min(present, key=lambda n: present[n].beaten)
        silence = now - present[number].beaten
        if silence > self._timeout / 2:
            raise LostError(self._silent(number, silence))
        raise DeadlineError(self._stuck(min(late, key=lambda n: present[n].reported), now))

    def _present(self) -> dict[int, _Rank]:
        """The ranks that take part: a loop that lost a machine may go on with fewer, as its first rank reports."""
        world = self._ranks[0].beat.get("world", len(self._ranks))
        return {number: rank for number, rank in self._ranks.items() if number < world}

    def _is_silent(self, rank: _Rank, now: float) -> bool:
        return bool(rank.beat.get("ready")) and now - rank.beaten > self._heartbeat

    def _is_late(self, rank: _Rank, now: float) -> bool:
        limit = self._timeout if rank.beat.get("ready") else max(self._start_timeout, self._timeout)
        return now - min(rank.beaten, rank.reported) > limit

    def _look(self, number: int, rank: _Rank, now: float) -> None:
        path = self._folder / f"{number}.json"
        if not path.exists():
            return
        beat: Beat = json.loads(path.read_text(encoding="utf-8"))
        if beat != rank.beat:
            rank.beaten = now
        if (beat["pid"], beat["reports"]) != (rank.beat.get("pid"), rank.beat.get("reports")):
            rank.reported = now
        rank.beat = beat

    def _silent(self, number: int, seconds: float) -> str:
        beat = self._ranks[number].beat
        if not beat:
            return (
                f"train:{self._role} rank {number} did not start within {seconds:.0f} s; look at the logs of its "
                f"machine, or raise cluster.start_timeout"
            )
        return (
            f"{self.name(number)} has not run for {seconds:.0f} s, in {beat['activity']}: its process is stopped or "
            f"its machine is gone"
        )

    def _stuck(self, number: int, now: float) -> str:
        rank = self._ranks[number]
        return (
            f"{self.name(number)} waits for {rank.beat['activity']} since {now - rank.reported:.0f} s; it is stuck or "
            f"starved: look at its log, or raise cluster.call_timeout"
        )
