"""The tables and plots of benchmarks/README.md, from the committed results: python -m benchmarks.page.

The text between the tables is written by hand. A table stands in a section of its own, whose name is that of the
result (`benchmarks.pages`); a result that nobody has measured yet has a sentence there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks import page_iteration, page_parts, page_services
from benchmarks.pages import replace_section
from benchmarks.record import RESULTS

Row = Mapping[str, Any]
HERE = Path(__file__).parent
PAGE = HERE / "README.md"
TABLES: Mapping[str, Callable[[Row], str]] = MappingProxyType(
    {
        "step": page_iteration.step,
        "latency": page_iteration.latency,
        "staleness": page_iteration.staleness,
        "ppo_iteration": page_iteration.ppo_iteration,
        "iteration_before": page_iteration.iteration_before,
        "scale": page_iteration.scale,
        "weight_transfer": page_iteration.weight_transfer,
        "rollout_throughput": page_iteration.rollout_throughput,
        "gpu_smoke": page_iteration.gpu_smoke,
        "gpu_smoke_1.5B": page_iteration.gpu_smoke,
        "vs_trl": page_parts.vs_trl,
        "startup": page_parts.startup,
        "shared_prompt": page_parts.shared_prompt,
        "offline_speed": page_parts.offline_speed,
        "offline_memory": page_parts.offline_memory,
        "merge_speed": page_parts.merge_speed,
        "gae_speed": page_parts.gae_speed,
        "prompt_selection": page_parts.prompt_selection,
        "generation": page_parts.generation,
        "engine_choice": page_parts.engine_choice,
        "annotator_service": page_services.annotator_service,
        "upstream_faults": page_services.upstream_faults,
        "served_profiles": page_services.served_profiles,
        "faulty_rewards": page_services.faulty_rewards,
        "quickstart_seeds": page_services.quickstart_seeds,
        "world_health": page_services.world_health,
    }
)
"""result -> its table"""
PLOTS: Mapping[str, Callable[[Row], str]] = MappingProxyType(
    {
        "step": page_iteration.step_plot,
        "staleness": page_iteration.staleness_plot,
        "scale": page_iteration.scale_plot,
        "vs_trl": page_parts.vs_trl_plot,
        "shared_prompt": page_parts.shared_prompt_plot,
    }
)
"""result -> its plot"""


def write_page(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write every section of the page, and the plots beside it."""
    images = page.parent / "images"
    for name in TABLES:
        path = results / f"{name}.json"
        content = json.loads(path.read_text()) if path.exists() else None
        replace_section(page, name, section(name, content))
        if content is not None and name in PLOTS:
            images.mkdir(exist_ok=True)
            (images / f"{name}.svg").write_text(PLOTS[name](content))


def section(name: str, content: Row | None) -> str:
    """The table of a result, its plot, and where it comes from."""
    if content is None:
        return f"`results/{name}.json` has not been measured yet."
    parts = [TABLES[name](content)]
    if name in PLOTS:
        parts.append(f"![{name}](images/{name}.svg)")
    parts.append(_origin(name, content))
    return "\n\n".join(parts)


def _origin(name: str, content: Row) -> str:
    machine = content["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return (
        f"`results/{name}.json`, {content['time'][:10]}: {machine['cores']} cores ({machine['processor']}), "
        f"load {machine['load_at_end']:.1f} at the end; {versions}."
    )


if __name__ == "__main__":
    write_page()
