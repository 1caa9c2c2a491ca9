"""Models at URLs: downloaded once by the driver; the cluster's other machines get them from there."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from rayalign.config import LoadedJob
from rayalign.errors import InputError, RayalignError
from rayalign.models.catalogue import STORES, url_folder
from rayalign.pipeline.hashing import unfinished
from rayalign.storage.remote import RemoteFolder

logger = logging.getLogger(__name__)


def fetch_models(loaded: LoadedJob) -> None:
    """Download the models at URLs that stages still to run read, and that are not here yet.

    Raises:
        InputError: there is no model at a URL, or it cannot be read.
    """
    for name, kind in unfinished(loaded.job).items():
        for read in kind.reads():
            if read.is_model and read.value.startswith(STORES):
                try:
                    _fetch(read.value, url_folder(read.value))
                except RayalignError as error:  # there is no model, or the store refuses
                    key = f"stages.{name}.{read.key}"
                    raise InputError(f"{loaded.origin(key)}: {key}: {error}") from error


def _fetch(url: str, folder: Path) -> None:
    """A folder appears when it is complete; one that is there is taken as it is."""
    if folder.is_dir():
        return
    arriving = folder.with_name(f".{folder.name}.arriving")
    shutil.rmtree(arriving, ignore_errors=True)
    count = RemoteFolder(url).download(arriving)
    if not (arriving / "config.json").is_file():
        raise InputError(
            f"{url} holds no model: there is no config.json among its {count} files; give a model's folder"
        )
    arriving.rename(folder)
    logger.info("%s is here as %s", url, folder)
