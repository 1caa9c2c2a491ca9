"""The vLLM adapter: the synchronous engine in this process, stepped by our own loop.

The environment variables of `environment` must be set before vllm is imported. vLLM changes its process (thread counts,
os.environ), so nothing else should live there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rayalign.config import LoraConfig, RolloutConfig, SamplingConfig
from rayalign.errors import InputError
from rayalign.rollout.base import EnginePart, Finished, Request
from rayalign.rollout.beam_drafts import BeamDrafts
from rayalign.rollout.drafts import Draft, Drafts
from rayalign.rollout.vllm_transfer import WorkerTransfer, adapter_settings
from rayalign.weights.files import exactly, shapes
from rayalign.weights.sets import DeviceSet, WeightSet

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

LIBRARIES = (
    "vllm.entrypoints.llm",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.core.sched.scheduler",
    "vllm.model_executor.models.llama",
    "compressed_tensors",
)
"""what an engine on a CPU has imported once it is open"""
_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
CPU_STEP_TOKENS = 4096
"""prompt tokens that one step on a CPU reads, or one whole prompt"""
MAX_LIKELY = 256
"""next tokens of which a beam search may know the log-probs"""
COMPUTE_BYTES = 4 << 30
"""activations, CUDA graphs and communication of an engine on a GPU [bytes], an estimate"""


def environment(config: RolloutConfig) -> dict[str, str]:
    """What must be in the environment of the engine's process before vllm is imported."""
    variables = {_IN_PROCESS: "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if config.gpus:
        return variables
    binding = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(config.tensor_parallel)))}
    return {
        **variables,
        # One sampling helper is compiled whatever enforce_eager says, for 4 to 11 s and no gain on a CPU.
        "TORCH_COMPILE_DISABLE": "1",
        "OMP_NUM_THREADS": str(config.threads),
        **(binding if config.tensor_parallel > 1 else {}),
    }


def open_llm(model_path: str, config: RolloutConfig, **more: Any) -> LLM:
    """vLLM in this process, set up for this machine.

    Raises:
        InputError: the process was started without `environment`.
    """
    if os.environ.get(_IN_PROCESS) != "0":
        raise InputError(f"{_IN_PROCESS} is not 0; start the engine's process with rollout.vllm.environment(config)")
    from vllm import LLM

    gpu = config.gpus > 0
    # As TORCH_COMPILE_DISABLE, which a fork of a process that has torch already reads too late.
    torch._dynamo.config.disable = torch._dynamo.config.disable or not gpu
    if gpu:
        more["gpu_memory_utilization"] = memory_share(model_path, config, torch.cuda.mem_get_info()[1])
    return LLM(
        model_path,
        dtype=config.dtype,
        max_model_len=config.context,
        max_num_seqs=config.max_sequences,
        max_num_batched_tokens=None if gpu else max(config.context, CPU_STEP_TOKENS),
        # A prompt read in parts takes back the draw of each part, which a generator on a CPU cannot do.
        enable_chunked_prefill=gpu,
        kv_cache_memory_bytes=config.cache_bytes,
        tensor_parallel_size=config.tensor_parallel,
        # Inside a placement group vLLM would choose Ray, which has no bundles left for its workers.
        distributed_executor_backend="mp" if config.tensor_parallel > 1 else None,
        generation_config="vllm",
        # A probe right after a load goes before the candidates that the load has put back in line.
        scheduling_policy="priority",
        enforce_eager=not gpu,
        enable_sleep_mode=gpu,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **more,
    )


def memory_share(model_path: str, config: RolloutConfig, capacity: int) -> float:
    """The share of a device that one engine needs: its weights, its cache, and room to compute.

    vLLM refuses to start unless this share is free, whatever the cache is told to take. Its own default, 0.92, would
    leave nothing to a learner on the same device.

    Args:
        capacity: of one device [bytes].
    """
    weights = sum(file.stat().st_size for file in Path(model_path).glob("*.safetensors"))
    needed = weights / config.tensor_parallel + config.cache_bytes + COMPUTE_BYTES
    return min(0.92, needed / capacity)


class VllmEngine:
    """A candidate's seed alone decides what is drawn.

    `score` takes sequences shorter than the context, since vLLM keeps room for one more token.
    """

    def __init__(self, model_path: str, config: RolloutConfig, adapter: LoraConfig | None = None) -> None:
        """`adapter`: the largest that the engine must take beside its base; None: none."""
        settings = {
            "skip_tokenizer_init": True,
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": MAX_LIKELY,
            **adapter_settings(adapter),
        }
        self._llm = open_llm(model_path, config, **settings)
        self.version = 0
        self._names = frozenset(shapes(Path(model_path)))
        self._drafts = Drafts(config.context)
        self._beams = BeamDrafts(self._drafts, config.max_sequences)
        self._writing: dict[str, Draft] = {}
        self._scores: dict[str, list[float] | None] = {}
        self._likely: dict[str, list[tuple[int, float]] | None] = {}
        self._engine = self._llm.llm_engine
        self._engine.set_weight_version("0")
        self._transfer = WorkerTransfer(self._llm)

    @property
    def pending(self) -> int:
        return self._drafts.pending

    @property
    def in_flight(self) -> list[Request]:
        return self._drafts.in_flight

    def submit(self, request: Request) -> None:
        draft = self._drafts.submit(request)
        if draft is None:
            return
        if request.sampling.beams is not None:
            self._beams.add(draft)
            return
        self._writing[request.key] = draft
        sampling = request.sampling
        self._add(
            request.key,
            request.prompt_ids,
            seed=request.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=draft.limit,
            stop_token_ids=list(request.stop_ids),
            logprobs=0,
        )

    def abort(self, keys: Collection[str]) -> None:
        self._engine.abort_request([key for key in keys if self._writing.pop(key, None) is not None])
        self._drafts.abort(keys)
        self._beams.abort(keys)

    def step(self) -> list[Finished]:
        if self._beams:
            self._beams.write(self._next_tokens, self.version)
        if self._writing:
            self._advance()
        return self._drafts.take()

    def load(self, weights: WeightSet) -> None:
        if weights.kind == "adapter":
            self._transfer.load_adapter(weights)
        elif isinstance(weights, DeviceSet):
            self._transfer.replay(weights)
        else:
            self._transfer.load(exactly(weights.tensors, self._names))
        # What is in flight is put back in line, and its cache is computed again with the new weights.
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self._engine.set_weight_version(str(weights.version))
        self.version = weights.version

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        keys = [f"score {row}" for row in range(len(token_ids))]
        self._scores = dict.fromkeys(keys)
        for key, ids in zip(keys, token_ids, strict=True):
            self._add(key, ids, priority=-1, temperature=0.0, max_tokens=1, prompt_logprobs=0)
        while None in self._scores.values():
            self._advance()
        return [scores for scores in self._scores.values() if scores is not None]

    def _next_tokens(
        self, prefixes: Sequence[tuple[int, ...]], count: int, sampling: SamplingConfig
    ) -> list[list[tuple[int, float]]]:
        """Likely next tokens of each sequence; what they share comes from the prefix cache."""
        keys = [f"next {row}" for row in range(len(prefixes))]
        self._likely = dict.fromkeys(keys)
        logprobs = min(count, MAX_LIKELY)
        for key, ids in zip(keys, prefixes, strict=True):
            self._add(key, ids, temperature=sampling.temperature or 1.0, max_tokens=1, logprobs=logprobs)
        while None in self._likely.values():
            self._advance()
        return [likely for likely in self._likely.values() if likely is not None]

    def sleep(self, *, keep_weights: bool = False) -> None:
        assert not self.pending, "an engine sleeps with nothing in flight"
        # On a CPU vLLM goes the same way and frees nothing.
        self._llm.sleep(level=1 if keep_weights else 2)

    def wake(self, part: EnginePart) -> None:
        self._llm.wake_up(tags=["kv_cache" if part == "cache" else part])

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _add(self, key: str, ids: Sequence[int], *, priority: int = 0, **settings: Any) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            **settings, ignore_eos=True, detokenize=False, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY
        )
        prompt = {"prompt_token_ids": list(ids)}
        self._engine.add_request(key, prompt, params, priority=priority, lora_request=self._transfer.adapter)

    def _advance(self) -> None:
        for output in self._engine.step():
            draft = self._writing.pop(output.request_id, None)
            if draft is not None:
                self._take(draft, output)
            elif output.request_id in self._scores:
                self._scores[output.request_id] = _first_of_each(output.prompt_logprobs)[1:]
            elif output.request_id in self._likely:
                self._likely[output.request_id] = _all_of_first(output.outputs[0].logprobs)

    def _take(self, draft: Draft, output: RequestOutput) -> None:
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            self._drafts.fail(draft.request.key, f"vLLM ended an answer with {answer.finish_reason}")
            return
        draft.tokens = list(answer.token_ids)
        draft.logprobs = _first_of_each(answer.logprobs)
        draft.version_runs = [(span.start, int(span.version)) for span in answer.weight_versions]
        self._drafts.finish(draft, answer.finish_reason)


def _all_of_first(flat: Any) -> list[tuple[int, float]]:
    """Tokens and log-probs at the first position, the most likely ones first."""
    here = slice(flat.start_indices[0], flat.end_indices[0])
    likely = dict(zip(flat.token_ids[here], flat.logprobs[here], strict=True))  # the token drawn may be there twice
    return sorted(likely.items(), key=lambda each: each[1], reverse=True)


def _first_of_each(flat: Any) -> list[float]:
    """The log-prob of the token itself at each position; vLLM puts it before the most likely ones."""
    return [
        flat.logprobs[start] if end > start else 0.0
        for start, end in zip(flat.start_indices, flat.end_indices, strict=True)
    ]
