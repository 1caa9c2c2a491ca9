"""The job in miniature: the same roles, stages and settings with fewer actors, fewer steps and short answers.

Pure: from a job and the places of its small models and rows to another job, and a line for each change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayalign.config import Job
from rayalign.pipeline.kind import StageKind, kinds_of
from rayalign.rehearsal.batches import Arithmetic, small_batches
from rayalign.rehearsal.changes import Change, ChangeKind
from rayalign.rehearsal.devices import fold_devices
from rayalign.rehearsal.edits import Tree, as_job, as_tree, renamed, section_at
from rayalign.rehearsal.stand_ins import at_folder

MOST = 2
"""what folding leaves of a count"""
UNLIMITED = 1 << 30
"""what is left of a count without folding"""
ANSWER = 16
"""tokens of an answer"""
PROMPTS = 16
"""rows of a format that makes its own"""
CORPUS = 64
"""documents of a pretraining"""
SEQUENCES = 16
"""in flight on one engine"""
CACHE = 32 << 20
"""of one engine [bytes]"""
RANK = 8
"""of an adapter"""
LEAST_HOLDOUT = 0.2
STEPS = 3
"""optimizer steps of a training that names their number, where no more are needed to use every row"""
PRESET = "preset:pico"
VOCABULARY = 320
"""pieces of a tokenizer that is trained on the data"""
START, CALL, TRANSFER = 600.0, 1200.0, 300.0
"""deadlines [s]: nothing in a miniature takes long, and a hang is a finding"""


@dataclass(frozen=True, slots=True)
class Small:
    """Where the small models and the chosen rows are."""

    models: Mapping[str, str] = field(default_factory=dict)
    """name in the job -> folder"""
    rows: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """`STAGE.KEY` of a data section -> format and folder"""
    counts: Mapping[str, int] = field(default_factory=dict)
    """`STAGE.KEY` of a data section -> rows that were chosen or made"""
    annotators: str | None = None
    """file of a service in the place of the job's own"""


class Miniature:
    """Builds the small job; `changes` are its lines of rehearsal.diff."""

    def __init__(self, job: Job, small: Small, *, fold: bool) -> None:
        """
        Args:
            fold: counts above two become two, devices and threads of one actor become one; else they stay.
        """
        self.changes: list[Change] = []
        self._job = job
        self._small = small
        self._most = MOST if fold else UNLIMITED
        self._most_of_actor = 1 if fold else UNLIMITED
        self._tree = as_tree(job)

    def build(self, name: str, output: str) -> Job:
        """The small job.

        Args:
            name: of its run.
            output: folder of its run.
        """
        tree = self._tree
        tree["stages"] = renamed(tree["stages"], self._small.models)
        self._rollout(tree["rollout"])
        self._cluster(tree["cluster"])
        self._tracking(tree["tracking"])
        if self._small.annotators:
            tree["annotator"] = {"url": None, "file": self._small.annotators}
            self._note("substituted", "annotator", "by a small reward model of random weights, served by the run")
        kinds = kinds_of(self._job)
        for stage_name, stage in tree["stages"].items():
            kind = kinds[stage_name]
            training = kind.training
            arithmetic = None
            if training is not None:
                arithmetic = small_batches(training, self._most, self._small.counts.get(f"{stage_name}.data", 0))
            self._stage(stage_name, kind, stage, arithmetic)
        tree["name"], tree["output"] = name, output
        tree["cluster"].update(fold_devices(self._job, as_job(tree)))
        return as_job(tree)

    def _note(self, kind: ChangeKind, key: str, text: str) -> None:
        self.changes.append(Change(kind, key, text))

    def _set(self, kind: ChangeKind, holder: Tree, key: str, value: Any, where: str) -> None:
        """Give a key a new value, with a line where that is another one."""
        before = holder.get(key)
        if before != value:
            holder[key] = value
            self._note(kind, f"{where}.{key}" if where else key, f"{before} -> {value}")

    def _cap(self, kind: ChangeKind, holder: Tree, key: str, most: int, where: str) -> None:
        """Lower a number to a limit."""
        value = holder.get(key)
        if value is not None and value > most:
            self._set(kind, holder, key, most, where)

    def _rollout(self, rollout: Tree) -> None:
        self._cap("folded", rollout, "engines", self._most, "rollout")
        if rollout["tensor_parallel"] > 1:
            ranks = rollout["tensor_parallel"]
            text = f"{ranks} ranks of an engine run as one; that {ranks} divides the model is checked at full size"
            self._note("not covered", "rollout.tensor_parallel", text)
            rollout["tensor_parallel"] = 1
            self._cap("folded", rollout, "gpus", self._most_of_actor, "rollout")
        self._cap("shrunk", rollout, "max_sequences", SEQUENCES, "rollout")
        self._cap("shrunk", rollout, "cache_bytes", CACHE, "rollout")
        self._set("substituted", rollout, "cpus", None, "rollout")
        self._cap("folded", rollout, "threads", self._most_of_actor, "rollout")
        if rollout["weights"] in ("nccl", "ipc"):
            self._set("substituted", rollout, "weights", "store", "rollout")
        elif rollout["gpus"] and rollout["weights"] == "auto":
            self._note("substituted", "rollout.weights", "NCCL or CUDA IPC by the object store in shared memory")

    def _cluster(self, cluster: Tree) -> None:
        if cluster["address"]:
            self._note("not covered", "cluster.address", f"{cluster['address']}: one machine stands for the cluster")
        for key, value in {"address": None, "cpus": None, "object_store": None, "scale_timeout": 0.0}.items():
            self._set("substituted", cluster, key, value, "cluster")
        for key, most in {"start_timeout": START, "call_timeout": CALL, "transfer_timeout": TRANSFER}.items():
            self._cap("shrunk", cluster, key, int(most), "cluster")

    def _tracking(self, tracking: Tree) -> None:
        if tracking["wandb"]:
            self._note("not covered", "tracking.wandb", "nothing is sent to Weights & Biases")
            tracking["wandb"] = None

    def _stage(self, name: str, kind: StageKind[Any], stage: Tree, arithmetic: Arithmetic | None) -> None:
        where = f"stages.{name}"
        self._rows(name, kind, stage)
        for role, host in stage.get("roles", {}).items():
            self._host(host, f"{where}.roles.{role}")
        for key in ("learner", "critic_learner"):
            if stage.get(key):
                self._learner(stage[key], f"{where}.{key}", arithmetic)
        if arithmetic is not None:
            self._training(stage, where, arithmetic)
            self._guards(stage["guards"], where)
        if str(stage.get("model", "")).startswith("preset:"):
            self._set("shrunk", stage, "model", PRESET, where)
            self._cap("shrunk", stage, "vocabulary", VOCABULARY, where)
            self._cap("shrunk", stage, "epochs", 1, where)
            self._cap("shrunk", stage["learner"], "minibatch", 8, f"{where}.learner")
        self._drawing(kind, stage, where)

    def _rows(self, name: str, kind: StageKind[Any], stage: Tree) -> None:
        """Chosen rows in the place of data from files, few rows of formats that make their own."""
        sections = [("data", kind.data)] if kind.data is not None else []
        sections += [(key, data) for key, data, _ in kind.further_data()]
        for key, _ in sections:
            holder, last = section_at(stage, key)
            place = self._small.rows.get(f"{name}.{key}")
            if place is not None:
                form, folder = place
                holder[last] = at_folder(holder[last], form, folder)  # type: ignore[arg-type]
                continue
            most = CORPUS if "vocabulary" in stage else PROMPTS
            limit = holder[last]["limit"]
            holder[last]["limit"] = min(limit or most, most)

    def _host(self, host: Tree, where: str) -> None:
        fewer_may_go_on = host["min_actors"] is not None and host["min_actors"] < host["actors"]
        fewest = self._most - 1 if fewer_may_go_on else self._most
        self._cap("folded", host, "min_actors", fewest, where)
        self._cap("folded", host, "actors", self._most, where)
        self._cap("folded", host, "gpus", self._most_of_actor, where)
        self._set("substituted", host, "cpus", None, where)
        self._set("substituted", host, "threads", None, where)

    def _learner(self, learner: Tree, where: str, arithmetic: Arithmetic | None) -> None:
        if arithmetic is not None:
            self._set("shrunk", learner, "minibatch", arithmetic.minibatch, where)
        self._cap("shrunk", learner, "warmup_steps", 1, where)
        if learner.get("lora"):
            self._cap("shrunk", learner["lora"], "rank", RANK, f"{where}.lora")
        if learner["attention"] == "flash":
            self._set("substituted", learner, "attention", "sdpa", where)

    def _training(self, stage: Tree, where: str, arithmetic: Arithmetic) -> None:
        if arithmetic.prompts:
            self._online(stage, where, arithmetic)
            return
        self._cap("shrunk", stage, "epochs", 2, where)
        self._cap("shrunk", stage, "steps", max(STEPS, arithmetic.pass_steps), where)
        if stage["holdout"]:
            self._set("shrunk", stage, "holdout", max(stage["holdout"], LEAST_HOLDOUT), where)

    def _online(self, stage: Tree, where: str, arithmetic: Arithmetic) -> None:
        self._cap("folded", stage, "max_staleness", self._most, where)
        self._cap("shrunk", stage, "iterations", arithmetic.iterations, where)
        self._set("shrunk", stage, "checkpoint_every", 1, where)
        self._set("shrunk", stage, "prompts", arithmetic.prompts, where)
        if stage.get("overlap"):
            self._cap("folded", stage["overlap"], "extra_prompts", self._most, f"{where}.overlap")
            self._cap("shrunk", stage["overlap"], "extra_prompts", arithmetic.prompts, f"{where}.overlap")
        if stage["candidates"] != arithmetic.candidates:
            text = f"{_shown(stage['candidates'])} -> {_shown(arithmetic.candidates)}"
            # The number of a mixture by name is one of optimizer steps, and its candidates stay.
            kind: ChangeKind = "shrunk" if isinstance(stage["candidates"], str) else "folded"
            self._note(kind, f"{where}.candidates", text)
            stage["candidates"] = arithmetic.candidates
        if stage.get("mix"):
            self._cap("shrunk", stage["mix"], "samples", 2 * arithmetic.ranks, f"{where}.mix")

    def _guards(self, guards: list[Tree], where: str) -> None:
        for number, guard in enumerate(guards):
            if guard["action"] != "warn":
                text = f"{guard['action']} -> warn: the figures of random weights mean nothing"
                self._note("substituted", f"{where}.guards.{number}.action", text)
                guard |= {"action": "warn", "rate": 1.0}

    def _drawing(self, kind: StageKind[Any], stage: Tree, where: str) -> None:
        """How answers are drawn and chosen."""
        if stage.get("sampling") and kind.sampling is not None:
            self._cap("shrunk", stage["sampling"], "max_tokens", ANSWER, f"{where}.sampling")
        sources = stage.get("sources")
        if isinstance(sources, list):
            for number, source in enumerate(sources):
                self._cap("folded", source, "count", self._most, f"{where}.sources.{number}")
        elif "count" in stage and kind.sampling is not None:
            self._cap("folded", stage, "count", self._most, where)
        if "pairs" in stage:
            self._cap("folded", stage, "pairs", math.comb(self._most, 2), where)
        if "evolutions" in stage:
            self._evolving(stage, where)
        best_of = stage.get("best_of") or {}
        for key, choice in ({"": best_of} if "n" in best_of else best_of).items():
            most = self._most if not sources else _candidates(stage)
            self._cap("folded", choice, "n", most, f"{where}.best_of.{key}".rstrip("."))

    def _evolving(self, stage: Tree, where: str) -> None:
        self._cap("folded", stage, "evolutions", self._most, where)
        if stage["model"]:
            gates = {"shortest": 0, "near": 1.0, "ancestor": 0.0, "distinct": 0.0}
            stage["gates"].update(gates)
            self._note("substituted", f"{where}.gates", "open, since a model of random weights writes no prompts")


def _candidates(stage: Tree) -> int:
    """Candidates of a prompt of a stage with sources."""
    if isinstance(stage["sources"], list):
        return sum(source["count"] for source in stage["sources"])
    return UNLIMITED


def _shown(candidates: Any) -> str:
    """Sources of candidates for people."""
    if isinstance(candidates, str):
        return candidates
    return ", ".join(f"{source['count']} {source['source']}" for source in candidates)
