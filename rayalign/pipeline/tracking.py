"""What a tracker needs before a run starts."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rayalign.config import TrackingConfig
from rayalign.pipeline.kind import Problem

_WITHOUT_KEY = ("offline", "disabled", "dryrun")
_HOST = "https://api.wandb.ai"


def tracking_problems(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> Iterator[Problem]:
    """Weights & Biases is installed, and has a key where it sends something."""
    if tracking.wandb is None:
        return
    if importlib.util.find_spec("wandb") is None:
        yield "tracking.wandb", "the package wandb is missing; run `pip install wandb`, or leave this out"
    elif environment.get("WANDB_MODE", "online") not in _WITHOUT_KEY and not _has_key(environment):
        yield (
            "tracking.wandb",
            "no key for Weights & Biases; set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline",
        )


def _has_key(environment: Mapping[str, str]) -> bool:
    """As wandb looks for it: in the environment, then in the file of `wandb login`."""
    if environment.get("WANDB_API_KEY", "").strip():
        return True
    file = Path(environment.get("NETRC") or Path.home() / ".netrc").expanduser()
    host = urlsplit(environment.get("WANDB_BASE_URL") or _HOST).hostname
    try:
        return host is not None and netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
