"""The machines of the cluster that a run has joined: enough of them, with the run's folders, watched."""

from __future__ import annotations

import logging
from pathlib import Path

from rayalign.cluster.machine_watch import Watches, await_lost_machines
from rayalign.cluster.session import Session
from rayalign.cluster.shared_folders import SharedFolders
from rayalign.config import LoadedJob, Reference
from rayalign.errors import InputError
from rayalign.models.catalogue import model_path
from rayalign.pipeline.checks import refuse
from rayalign.pipeline.growth import Growth
from rayalign.pipeline.hashing import unfinished

logger = logging.getLogger(__name__)


class Machines:
    """Leaving it brings the last logs home and lets the cluster shrink."""

    def __init__(self, loaded: LoadedJob, folder: Path, session: Session) -> None:
        """
        Args:
            folder: of the run.
        """
        self._loaded = loaded
        self._growth = Growth(loaded, session)
        models = local_models(loaded)
        self._folders = SharedFolders({"output": folder}, models, loaded.job.cluster.start_timeout)
        self._watches = Watches(folder / "logs")

    def __enter__(self) -> Machines:
        self._growth.refuse_oversize()
        return self

    def __exit__(self, *failure: object) -> None:
        self._watches.collect()
        self._growth.end()

    def await_stage(self, name: str | None) -> None:
        """Wait until the machines that a stage needs are there, and prove that they share the run's folders.

        Raises:
            InputError: they do not come, or a folder is missing on one of them.
        """
        if name is not None:
            self._growth.wait_for(name)
        refuse(self._loaded, self._folders.problems())
        self._watches.extend()

    def await_again(self, name: str, *, whole: bool) -> None:
        """Wait for the machines of a stage that has lost something; first Ray has to count out what is gone.

        A cluster that does not get back what it had refuses nothing: the stage may still find room, else it says itself
        what it lacks.

        Args:
            whole: wait until there is room for everything; False where the stage goes on with fewer ranks.

        Raises:
            InputError: a folder of the run is missing on a machine.
        """
        await_lost_machines()
        if whole:
            try:
                self._growth.wait_for(name)
            except InputError as error:
                logger.warning("%s; %s starts again with the machines that are there", error, name)
        self.await_stage(None)

    def collect(self) -> int:
        """Bring the logs of the other machines to the run's folder; the sum of their peaks of memory [bytes]."""
        self._watches.collect()
        return self._watches.peak


def local_models(loaded: LoadedJob) -> dict[str, Path]:
    """Key in the job -> model folder of the driver's machine, of the stages still to run."""
    models: dict[str, Path] = {}
    for name, kind in unfinished(loaded.job).items():
        for read in kind.reads():
            folder = Path(model_path(read.value))
            if read.is_model and Reference.parse(read.value) is None and folder.is_dir():
                models[f"stages.{name}.{read.key}"] = folder
    return models
