"""One rank of a trained model: DeepSpeed inside, the loss from the algorithm, no Ray.

Every rank is given the same batch and takes its own share of each minibatch. The loss sum of a micro-batch is divided
by the normaliser of the global minibatch, so that micro-batches, ranks and ZeRO stages change no gradient. All methods
but `own_rows` and, outside ZeRO-3, `score_probe` are collective: every rank calls them in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist
from torch.nn.utils.rnn import pad_sequence

from rayalign.algorithms.base import Algorithm
from rayalign.config import LearnerConfig
from rayalign.models.adapter_output import FOLDER, save_adapter
from rayalign.models.averaging import AVERAGE, WeightAverage
from rayalign.models.batching import micro_rows, pass_over, shard
from rayalign.models.divided import divided
from rayalign.models.engine_state import EngineState
from rayalign.models.exact_kl import reference_of
from rayalign.models.heads import HeadKind, TokenLogprobs, as_outputs, evaluate, placeholder, read, to_device
from rayalign.models.hidden import shares_prompts, token_metrics
from rayalign.models.inspection import minibatch_file, not_finite, save_minibatch
from rayalign.models.lines import prompts_of
from rayalign.models.load import Initial, load_head
from rayalign.models.lora import adapter_off, add_adapter
from rayalign.models.metrics import GRAD_NORM, LEARNING_RATE
from rayalign.models.mixture import Mixture
from rayalign.models.objective import Objective, Piece, entropy_use
from rayalign.models.offload import DeviceState
from rayalign.models.partitioned import Partition
from rayalign.models.process_group import DEADLINE, highest, meet
from rayalign.models.verify import verify_saved
from rayalign.models.whole import WholeTensors
from rayalign.models.zero import engine_config, lies_in_parts, start_engine
from rayalign.types import Batch, Metric, Metrics, Outputs, Role, merged
from rayalign.weights.sets import Form, WeightSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Learner:
    """A model, its optimizer and its schedule on one rank; world and rank come from torch.distributed's environment.

    `inspection` is the folder for a minibatch whose loss is not finite; without one it is not saved.
    """

    def __init__(
        self,
        path: str,
        head: HeadKind,
        config: LearnerConfig,
        *,
        role: Role,
        temperature: float = 1.0,
        total_steps: int,
        seed: int,
        initial: Initial = "reward",
        inspection: Path | None = None,
        timeout: float = DEADLINE,
    ) -> None:
        self.config = config
        self.role: Role = role
        self._device = meet(timeout)
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._path, self._kind = path, head
        self._inspection = inspection
        # Stage 0 has no fp32 master weights; stage 1 has, with the same mathematics.
        self._stage = max(config.zero_stage, int(config.precision == "bf16"))
        partition = None
        if lies_in_parts(config, self._world):
            partition = Partition(self._rank, self._device, engine_config(config, self._stage))
        self._head = load_head(
            path, head, config, temperature=temperature, seed=seed, initial=initial, partition=partition
        )
        if config.lora is not None:
            add_adapter(self._head.model, config.lora, seed)
        if config.gradient_checkpointing:
            self._head.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._tensors = WholeTensors(self._head.model, config.lora, stage=self._stage, rank=self._rank)
        self._engine = start_engine(self._head, config, self._stage, total_steps)
        self._average = WeightAverage(self._head.model, config.ema) if config.ema is not None else None
        self._state = EngineState(self._engine, self._stage, self._average)
        self.device_state = DeviceState(self._head, self._engine.optimizer, self._device)
        if partition is not None and isinstance(self._head, TokenLogprobs):
            self._head.verify(path)  # only now can the engine gather what the ranks hold

    def hold_reference(self, path: str | None) -> None:
        """Have updates measure the exact KL to a frozen model, or (None) to the policy without its adapter."""
        assert isinstance(self._head, TokenLogprobs)
        self._head.reference = reference_of(self._head, path, self.config, self._device)

    def own_rows(self, batch: Batch) -> Batch:
        """This rank's share of a batch that all ranks hold; may be empty."""
        return shard(batch, self._rank, self._world, shares_prompts=shares_prompts(self._head.model))

    @torch.no_grad()
    def evaluate(self, batch: Batch, *, adapter: bool = True) -> Outputs:
        """Outputs for this rank's own rows, in their order, on the CPU; without its adapter as the model was before."""
        self._engine.eval()
        rounds = self._together(len(micro_rows(batch, self.config.micro_tokens)))
        with nullcontext() if adapter else adapter_off(self._head.model):
            return evaluate(self._head, self._engine, batch, self.config.micro_tokens, rounds)

    def update(
        self,
        batch: Batch,
        algorithm: Algorithm[Any],
        *,
        pass_index: int,
        seed: int,
        mixture: Mixture | None = None,
    ) -> list[Metrics]:
        """One pass over the batch, an optimizer step for each minibatch; metrics of each step over all ranks.

        Args:
            mixture: draws a second objective for each step.
        """
        lengths_B = batch["attention_mask_BT"].sum(dim=1)
        steps: list[Metrics] = []
        for index, rows in enumerate(pass_over(lengths_B, batch.unit_B, self.config, seed, pass_index)):
            second = mixture.draw((seed * 1009 + pass_index) * 10007 + index) if mixture else None
            steps.append(self.step(batch.rows(rows), algorithm, second))
        return self.over_ranks(steps)

    def over_ranks(self, steps: list[Metrics]) -> list[Metrics]:
        """The metrics of steps, which each rank has of its own share, over all ranks."""
        everyone: list[list[Metrics]] = [steps] * self._world
        if self._world > 1:
            dist.all_gather_object(everyone, steps)
        return [merged(ranks) for ranks in zip(*everyone, strict=True)]

    def step(self, minibatch: Batch, algorithm: Algorithm[Any], second: Objective | None = None) -> Metrics:
        """One optimizer step on a minibatch that all ranks hold; this rank's metrics. Without rows there is no step.

        Args:
            second: a further objective; its gradient is added.

        Raises:
            GuardError: on all ranks, where the loss or its gradient is not finite on one; no step was taken.
        """
        if not len(minibatch):
            return {}
        self._engine.train()
        objectives = [Objective(minibatch, algorithm)] + ([second] if second else [])
        if isinstance(self._head, TokenLogprobs):
            self._head.output.entropy = entropy_use(objectives)
        pieces: list[Piece] = []
        for objective in objectives:
            pieces += objective.pieces(self.role, self.own_rows, self.config.micro_tokens)
        pieces = divided(pieces, self.config.micro_tokens, self._outputs, self._together)
        rounds = highest(len(pieces), self._device)
        parts: list[Metrics] = []
        for index in range(rounds):
            self._engine.set_gradient_accumulation_boundary(index == rounds - 1)
            parts.append(self._accumulate(pieces[index] if index < len(pieces) else None))
        rate, number = self._engine.get_lr()[0], self._engine.global_steps + 1
        norm, applied = self._apply()
        if not applied:
            self._stop(number, objectives)
        if self._average is not None:
            self._average.update()
        parts.append({GRAD_NORM: Metric(norm), LEARNING_RATE: Metric(rate)})
        return merged(parts)

    def _stop(self, number: int, objectives: Sequence[Objective]) -> NoReturn:
        """Save the minibatch of a step that was not taken, then raise; no rank raises before the file is there."""
        file = minibatch_file(self._inspection, self.role, number) if self._inspection else None
        if file is not None and self._rank == 0:
            save_minibatch(file, objectives)
        dist.barrier()
        raise not_finite(self.role, number, file)

    def _together(self, passes: int) -> int:
        """Forward passes that all ranks make: those of the rank with the most under ZeRO-3, else the rank's own."""
        return highest(passes, self._device) if self._stage == 3 else passes

    @torch.no_grad()
    def _outputs(self, piece: Piece | None) -> Outputs:
        return self._read(piece)[0]

    def _read(self, piece: Piece | None) -> tuple[Outputs, Batch]:
        """The outputs for a micro-batch, or for a row that only takes part, and what was read, on the device."""
        here = to_device(placeholder() if piece is None else piece.batch, self._device)
        temperature = piece.objective.temperature if piece else None
        settings = {} if temperature is None else {"temperature": temperature}
        return as_outputs(self._head, *read(self._engine, here, **settings)), here

    def _accumulate(self, piece: Piece | None) -> Metrics:
        """Add a micro-batch to the gradient; None takes part with a gradient of zero."""
        outputs, here = self._read(piece)
        if piece is None:
            read_out = outputs.logprobs_BT if outputs.logprobs_BT is not None else outputs.scores_B
            assert read_out is not None
            self._engine.backward(read_out.sum() * 0.0)
            return {}
        loss_sum = piece.loss(outputs, here)
        # A poisoned gradient reaches the norm on every rank, so that all of them stop together.
        poison = 1.0 if math.isfinite(loss_sum.numerator.item()) else math.nan
        # DeepSpeed averages over ranks; this is a sum.
        self._engine.backward(loss_sum.numerator * (piece.scale * self._world * poison))
        prompts_B = prompts_of(here["policy_mask_BT"], here["attention_mask_BT"])
        return piece.objective.named(loss_sum.metrics) | token_metrics(self._head.model, here, prompts_B)

    def _apply(self) -> tuple[float, bool]:
        """Take the step unless the gradient is not finite; its norm before clipping, and whether it was taken."""
        if self._stage:
            self._engine.step()
            return float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        norm = float(torch.nn.utils.clip_grad_norm_(self._head.parameters(), self.config.clip_norm))
        applied = math.isfinite(norm)
        if applied:
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm, applied

    def weights(self, version: int, form: Form = "merged") -> WeightSet:
        """The model for the engines; every rank reads the tensors to the end, only rank 0 gets them whole."""
        return self._tensors.weights(version, form)

    @torch.no_grad()
    def score_probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs at temperature 1 of each token after the first; under ZeRO-3 all ranks take part."""
        self._engine.eval()
        rows = [torch.tensor(list(ids)) for ids in token_ids]
        ids_BT = pad_sequence(rows, batch_first=True).to(self._device)
        mask_BT = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self._device)
        logprobs_BT = self._engine(ids_BT, mask_BT, mask_BT, temperature=1.0)[0]
        return [logprobs_T[1 : len(row)].tolist() for row, logprobs_T in zip(rows, logprobs_BT, strict=True)]

    def save(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write a plain Hugging Face folder from rank 0; an adapter is merged, and lies in the folder by itself too.

        The moving average of the weights, where there is one, is a folder of the same kind inside it.
        """
        self._write(Path(folder), tokenizer)
        if self._average is not None:
            with self._average.in_place():
                self._write(Path(folder) / AVERAGE, tokenizer)

    def _write(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        state = self._tensors.on_host(self._tensors.full())
        adapter = self._tensors.on_host(self._tensors.adapter()) if self.config.lora else {}
        if self._rank == 0:
            self._head.model.config.pad_token_id = tokenizer.pad_token_id
            self._head.model.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)
        if self._rank == 0 and self.config.lora:
            save_adapter(folder / FOLDER, adapter, self.config.lora, base=self._path, head=self._kind)
        dist.barrier()
        if self._rank == 0:
            verify_saved(folder)

    def save_state(self, folder: str | Path) -> None:
        """Write weights, optimizer, schedule and RNG; `load_state` goes on bit by bit."""
        self._state.save(Path(folder))
        dist.barrier()

    def load_state(self, folder: str | Path) -> None:
        """Go on from `save_state`, which may have been called at another world size, ZeRO stage or precision.

        Raises:
            InputError: nothing is there, or it is of another model.
        """
        self._state.load(Path(folder))

    def close(self) -> None:
        """Release the engine; the process group stays for other learners of this process."""
        self._engine.destroy()
        if self._stage == 3:
            self.device_state.release()
