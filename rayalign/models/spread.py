"""Frozen models that lie in parts on the ranks of a role (ZeRO-3), so that no device holds one whole.

Each layer's weights are gathered while the ranks read it, and released after that. So the ranks read in step: all
methods are collective.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from rayalign.config import LearnerConfig
from rayalign.models.batching import micro_rows
from rayalign.models.configuration import positions
from rayalign.models.heads import HeadKind, TokenLogprobs, as_outputs, evaluate
from rayalign.models.load import Frozen, load_head
from rayalign.models.offload import DeviceState
from rayalign.models.partitioned import Partition
from rayalign.models.process_group import DEADLINE, highest, meet
from rayalign.models.zero import engine_config, start_reading_engine
from rayalign.types import Batch, Outputs


class SpreadModel:
    """A model that is only read, of which this rank holds a part; world and rank come from torch.distributed."""

    def __init__(
        self, path: str, head: HeadKind, config: LearnerConfig, temperature: float = 1.0, timeout: float = DEADLINE
    ) -> None:
        """Load it on all ranks.

        Args:
            timeout: seconds until the other ranks must be there.
        """
        self._device = meet(timeout)
        settings = engine_config(config, stage=3)
        partition = Partition(dist.get_rank(), self._device, settings)
        self._head = load_head(
            path, head, config, temperature=temperature, seed=0, initial="reward", partition=partition
        ).requires_grad_(False)
        self._engine = start_reading_engine(self._head, settings)
        if isinstance(self._head, TokenLogprobs):
            self._head.output.entropy = "none"
            self._head.verify(path)  # only now can the engine gather what the ranks hold
        self._state = DeviceState(self._head, None, self._device)
        self._micro_tokens = config.micro_tokens

    @property
    def longest(self) -> int | None:
        """As `Frozen.longest`."""
        return positions(self._head.model.config)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Outputs:
        """As `Frozen.evaluate`, of this rank's own rows, of which there may be none."""
        rounds = highest(len(micro_rows(batch, self._micro_tokens)), self._device)
        return evaluate(self._head, self._engine, batch, self._micro_tokens, rounds)

    def offload(self) -> None:
        """Move this rank's part to host memory."""
        self._state.offload(["weights"])

    def reload(self) -> None:
        """Move this rank's part back to its device."""
        self._state.reload(["weights"])

    def close(self) -> None:
        """Release the engine and this rank's part; the process group stays."""
        self._engine.destroy()
        self._state.release()


class SharedModel(SpreadModel):
    """A spread model whose ranks are all given the same rows: each reads a share, and every rank gets all outputs."""

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Outputs:
        """As `Frozen.evaluate`."""
        rank, world = dist.get_rank(), dist.get_world_size()
        share_B = torch.arange(len(batch))[rank::world]
        own = super().evaluate(batch.rows(share_B))
        if isinstance(self._head, TokenLogprobs):
            assert own.logprobs_BT is not None
            blank_BT = torch.zeros(batch["input_ids_BT"].shape)
            return as_outputs(self._head, self._joined(own.logprobs_BT, share_B, len(batch)), blank_BT)
        assert own.values_BT is not None and own.scores_B is not None
        values_BT, scores_B = (self._joined(x, share_B, len(batch)) for x in (own.values_BT, own.scores_B))
        return as_outputs(self._head, values_BT, scores_B)

    def _joined(self, own: Tensor, share_B: Tensor, rows: int) -> Tensor:
        """All rows, of which this rank has some."""
        everyone = own.new_zeros(rows, *own.shape[1:])
        everyone[share_B] = own
        everyone = everyone.to(self._device)
        dist.all_reduce(everyone)
        return everyone.cpu()


def frozen_beside(path: str, config: LearnerConfig, world: int, temperature: float = 1.0) -> Frozen | SpreadModel:
    """A language model in the ranks of a learner, each of which reads its own rows: in parts where the learner is."""
    kind = SpreadModel if config.zero_stage == 3 and world > 1 else Frozen
    return kind(path, "causal", config, temperature)


def frozen_model(path: str, head: HeadKind, config: LearnerConfig, *, spread: bool) -> Frozen | SharedModel:
    """A model that is only read: whole in this process, or in parts on ranks that are all given the same rows."""
    return SharedModel(path, head, config) if spread else Frozen(path, head, config)
