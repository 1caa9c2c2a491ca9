"""The folders of a run on every machine of its cluster: what a run writes is shared, what it reads is there.

A folder that a run writes must be the same on all machines. A model that a machine lacks is copied to it.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayalign.cluster.folder_copy import copy_folder
from rayalign.cluster.machine_watch import other_machines
from rayalign.errors import DeadlineError, InputError

logger = logging.getLogger(__name__)
Contents = dict[str, int]
"""name -> size of each file in a folder"""


class SharedFolders:
    """The folder that a run writes and those that it reads; each machine is asked once."""

    def __init__(self, written: Mapping[str, Path], read: Mapping[str, Path], timeout: float) -> None:
        """
        Args:
            written: key in the job -> folder in which every machine writes.
            read: key in the job -> folder that every machine reads.
            timeout: seconds until a machine must have looked.
        """
        self._written = written
        self._read = read
        self._timeout = timeout
        self._known: set[str] = set()

    def problems(self) -> list[tuple[str, str]]:
        """Copy models to machines that are new; the key of each written folder that one does not share, and a sentence.

        Raises:
            DeadlineError: a machine did not look in time.
            InputError: a machine cannot run this project.
        """
        machines = {node: address for node, address in other_machines().items() if node not in self._known}
        if not machines:
            return []
        mark = f".shared-{uuid.uuid4().hex}"
        for folder in self._written.values():
            (folder / mark).touch()
        try:
            return self._ask(machines, mark)
        finally:
            for folder in self._written.values():
                (folder / mark).unlink(missing_ok=True)

    def _ask(self, machines: Mapping[str, str], mark: str) -> list[tuple[str, str]]:
        written = [str(folder) for folder in self._written.values()]
        contents = {str(folder): contents_of(folder) for folder in self._read.values()}
        looks = {}
        for node in machines:
            on_node = NodeAffinitySchedulingStrategy(node, soft=False)
            look = ray.remote(missing_folders).options(num_cpus=0, scheduling_strategy=on_node)
            looks[node] = look.remote(written, contents, mark)
        problems = []
        for node, look in looks.items():
            missing = self._answer(look, machines[node])
            if missing is None:
                continue
            self._known.add(node)
            for key, folder in self._keys(missing):
                if key in self._written:
                    problems.append((key, self._sentence(folder, machines[node])))
                else:
                    copy_folder(folder, node, self._timeout)
        return problems

    def _answer(self, look: ray.ObjectRef, address: str) -> list[str] | None:
        """The folders that a machine lacks; None where it is gone, such as one that was idle after another job."""
        try:
            missing: list[str] = ray.get(look, timeout=self._timeout)
        except GetTimeoutError as error:
            raise DeadlineError(
                f"the machine {address} did not look at the folders within {self._timeout:.0f} s; "
                "raise cluster.start_timeout"
            ) from error
        except RayTaskError as error:
            raise InputError(
                f"the machine {address} cannot run this project: {error.cause}; set it up from the same files as the "
                "head node (clusters/README.md)"
            ) from error
        except RayError as error:
            logger.warning("the machine %s went away before it was used: %s", address, error)
            return None
        return missing

    def _keys(self, missing: Sequence[str]) -> list[tuple[str, Path]]:
        folders = {**self._read, **self._written}
        return [(key, folder) for key, folder in folders.items() if str(folder) in missing]

    def _sentence(self, folder: Path, address: str) -> str:
        return (
            f"the machine {address} does not see {folder} as the driver does; give a folder on a file system that all "
            "machines share, beside a URL as the variable RAYALIGN_WORK"
        )


def missing_folders(written: Sequence[str], contents: Mapping[str, Contents], mark: str) -> list[str]:
    """Those folders that differ on the machine that calls, or in which it cannot write."""
    missing = [folder for folder in written if not _writable(Path(folder), mark)]
    missing += [folder for folder, expected in contents.items() if contents_of(Path(folder)) != expected]
    return missing


def contents_of(folder: Path) -> Contents:
    """Names and sizes of the files in a folder; empty where there is none."""
    if not folder.is_dir():
        return {}
    return {entry.name: entry.stat().st_size for entry in folder.iterdir() if entry.is_file()}


def _writable(folder: Path, mark: str) -> bool:
    return (folder / mark).is_file() and os.access(folder, os.W_OK)
