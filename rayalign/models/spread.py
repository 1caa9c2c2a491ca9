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
from rayalign.models.heads import HeadKind, TokenLogprobs, evaluate
from rayalign.models.load import Frozen, ReadOnly, load_head
from rayalign.models.offload import DeviceState
from rayalign.models.partitioned import Partition
from rayalign.models.process_group import DEADLINE, highest, join_rows, meet
from rayalign.models.zero import engine_config, lies_in_parts, start_reading_engine
from rayalign.types import Batch, Outputs


class SpreadModel(ReadOnly):
    """A model that is only read, of which this rank holds a part; world and rank come from torch.distributed."""

    def __init__(
        self, path: str, head: HeadKind, config: LearnerConfig, temperature: float = 1.0, timeout: float = DEADLINE
    ) -> None:
        """Load it on all ranks.

        Args:
            timeout: seconds until the other ranks must be there.
        """
        self.device = meet(timeout)
        # `offload` is for models that are trained; the parts of a frozen one stay on the device.
        settings = engine_config(config.model_copy(update={"offload": "none"}), stage=3)
        partition = Partition(dist.get_rank(), self.device, settings)
        loaded = load_head(path, head, config, temperature=temperature, seed=0, initial="reward", partition=partition)
        super().__init__(loaded, config)
        self._engine = start_reading_engine(self._head, settings)
        if isinstance(self._head, TokenLogprobs):
            self._head.verify(path)  # only now can the engine gather what the ranks hold
        self._state = DeviceState(self._head, None, self.device)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Outputs:
        """As `Frozen.evaluate`, of this rank's own rows, of which there may be none."""
        rounds = highest(len(micro_rows(batch, self._micro_tokens)), self.device)
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


class SharedModel:
    """A spread model whose ranks are all given the same rows: each reads a share, and every rank gets all outputs."""

    def __init__(self, model: SpreadModel) -> None:
        self._model = model

    @property
    def longest(self) -> int | None:
        """As `Frozen.longest`."""
        return self._model.longest

    def evaluate(self, batch: Batch) -> Outputs:
        """As `Frozen.evaluate`."""
        share_B = torch.arange(len(batch))[dist.get_rank() :: dist.get_world_size()]
        own = self._model.evaluate(batch.rows(share_B))

        def join(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else join_rows(rows, share_B, len(batch), self._model.device)

        return Outputs(join(own.logprobs_BT), values_BT=join(own.values_BT), scores_B=join(own.scores_B))

    def offload(self) -> None:
        """As `SpreadModel.offload`."""
        self._model.offload()

    def reload(self) -> None:
        """As `SpreadModel.reload`."""
        self._model.reload()

    def close(self) -> None:
        """As `SpreadModel.close`."""
        self._model.close()


def frozen_beside(path: str, config: LearnerConfig, world: int, temperature: float = 1.0) -> Frozen | SpreadModel:
    """A language model in the ranks of a learner, each of which reads its own rows: in parts where the learner is."""
    kind = SpreadModel if lies_in_parts(config, world) else Frozen
    return kind(path, "causal", config, temperature)


def frozen_model(path: str, head: HeadKind, config: LearnerConfig, *, spread: bool) -> Frozen | SharedModel:
    """A model that is only read: whole in this process, or in parts on ranks that are all given the same rows."""
    return SharedModel(SpreadModel(path, head, config)) if spread else Frozen(path, head, config)
