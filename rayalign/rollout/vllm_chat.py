"""vLLM as a chat server: text in, answers out, from the same kind of engine that writes rollouts.

callers (an event loop)               the engine's thread
complete, stream -> inbox         ->  add, step, step, ...   idle: waits on the inbox
  outcomes of the request  <-         text so far, then the answer (call_soon_threadsafe)

Requests with different adapters share the steps of one base.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rayalign.config import LoraConfig, RolloutConfig
from rayalign.data.chat import prompt_ids
from rayalign.data.dialogue import dialogue
from rayalign.errors import ActorError, DeadlineError, InputError
from rayalign.rollout.chat import AdapterRoom, Answer, ChatAdapter, ChatPrompt
from rayalign.rollout.vllm import open_llm
from rayalign.rollout.vllm_0_32 import adapter_without_effect
from rayalign.rollout.vllm_transfer import adapter_settings
from rayalign.types import Prompt

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.lora.request import LoRARequest

Outcome = str | Answer | Exception
"""the text so far, the whole answer, or why there is none"""


@dataclass(frozen=True, slots=True)
class _Request:
    key: str
    token_ids: Sequence[int]
    settings: Mapping[str, Any]
    adapter: ChatAdapter | None
    streamed: bool
    loop: asyncio.AbstractEventLoop
    outcomes: asyncio.Queue[Outcome]

    def deliver(self, outcome: Outcome) -> None:
        """Hand an outcome from the engine's thread to the caller's loop."""
        self.loop.call_soon_threadsafe(self.outcomes.put_nowait, outcome)


@dataclass(frozen=True, slots=True)
class _Drop:
    """A request whose caller has gone."""

    key: str


@dataclass(frozen=True, slots=True)
class _Forget:
    """An adapter that is no longer on disk."""

    number: int


class VllmChat:
    """One model; requests at the same time share the engine's steps.

    Args:
        adapters: the room for LoRA adapters; None: requests name none.
        timeout: until an answer is whole [seconds].
    """

    def __init__(
        self, model_path: str, config: RolloutConfig, timeout: float, adapters: AdapterRoom | None = None
    ) -> None:
        self._llm = open_llm(model_path, config, **_lora_settings(adapters))
        self._folder = TemporaryDirectory(prefix="rayalign-chat-")
        self._without: ChatAdapter | None = None
        """what requests for the base name, where they must name an adapter"""
        if adapters is not None and not config.gpus:
            self._without = adapter_without_effect(Path(model_path), adapters.targets, Path(self._folder.name))
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._context = config.context
        self._timeout = timeout
        self._inbox: queue.SimpleQueue[_Request | _Drop | _Forget] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._serve, name="vllm", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine still takes steps."""
        return self._thread.is_alive()

    async def complete(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None = None
    ) -> Answer:
        """The answer to a prompt.

        Args:
            settings: vLLM's sampling parameters.
            adapter: beside the base; None: the base alone.

        Raises:
            InputError: the prompt leaves no room in the context, or a dialogue that the model's chat template refuses.
            DeadlineError: no answer within the timeout.
            ActorError: the engine failed.
        """
        async with aclosing(self._outcomes(prompt, settings, adapter, streamed=False)) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, Answer):
                    return outcome
        raise ActorError("vLLM ended a request without an answer; restart the service")

    async def stream(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None = None
    ) -> AsyncGenerator[str | Answer, None]:
        """Pieces of the answer's text as they are written, then the whole answer; otherwise as `complete`."""
        sent = ""
        async with aclosing(self._outcomes(prompt, settings, adapter, streamed=True)) as outcomes:
            async for outcome in outcomes:
                text = outcome.text if isinstance(outcome, Answer) else outcome
                if len(text) > len(sent):
                    yield text[len(sent) :]
                    sent = text
                if isinstance(outcome, Answer):
                    yield outcome

    def forget(self, adapter: ChatAdapter) -> None:
        """Free the memory of an adapter that no request names any more."""
        self._inbox.put(_Forget(adapter.number))

    async def _outcomes(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None, *, streamed: bool
    ) -> AsyncGenerator[str | Answer, None]:
        """The texts so far, where they are streamed, then the answer."""
        loop = asyncio.get_running_loop()
        token_ids = self._encode(prompt)
        limited = self._limited(settings, len(token_ids))
        key = str(next(self._numbers))
        request = _Request(key, token_ids, limited, adapter, streamed, loop, asyncio.Queue())
        deadline = loop.time() + self._timeout
        ended = False
        self._inbox.put(request)
        try:
            while not ended:
                outcome = await asyncio.wait_for(request.outcomes.get(), deadline - loop.time())
                ended = not isinstance(outcome, str)
                if isinstance(outcome, InputError):
                    raise outcome
                if isinstance(outcome, Exception):
                    failure = f"{type(outcome).__name__}: {outcome}"
                    raise ActorError(f"vLLM failed with {failure}; restart the service") from outcome
                yield outcome
        except TimeoutError:
            raise DeadlineError(f"vLLM gave no answer in {self._timeout:g} s; send fewer requests at once") from None
        finally:
            if not ended:  # at the deadline, or because the caller has gone
                self._inbox.put(_Drop(key))

    def _limited(self, settings: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
        """The settings with a length that the context has room for."""
        room = self._context - prompt_tokens
        if room < 1:
            raise InputError(f"the prompt has {prompt_tokens} tokens, the model's context {self._context}; shorten it")
        return {**settings, "max_tokens": min(room, settings.get("max_tokens") or room)}

    def _encode(self, prompt: ChatPrompt) -> list[int]:
        if isinstance(prompt, str):
            return list(self._tokenizer(prompt).input_ids)
        if not self._tokenizer.chat_template:
            raise InputError("the model has no chat template; use a template without ChatML marks, or another model")
        turns = dialogue([dict(turn) for turn in prompt], "messages", "request")
        return list(prompt_ids(self._tokenizer, Prompt("request", turns)))

    def _serve(self) -> None:
        from vllm.exceptions import VLLMError

        engine = self._llm.llm_engine
        while True:
            self._admit(block=not self._running)
            try:
                outputs = engine.step()
            except (VLLMError, RuntimeError, ValueError) as error:
                engine.abort_request(list(self._running))
                for request in self._running.values():
                    request.deliver(error)
                self._running.clear()
                continue
            for output in outputs:
                self._deliver(output)

    def _admit(self, block: bool) -> None:
        engine = self._llm.llm_engine
        while block or not self._inbox.empty():
            entry = self._inbox.get()
            if isinstance(entry, _Drop):
                self._running.pop(entry.key, None)
                engine.abort_request([entry.key])
            elif isinstance(entry, _Forget):
                engine.remove_lora(entry.number)
            else:
                self._add(entry)
            block = not self._running

    def _add(self, request: _Request) -> None:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError, VLLMError
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.CUMULATIVE if request.streamed else RequestOutputKind.FINAL_ONLY
        prompt = {"prompt_token_ids": list(request.token_ids)}
        try:
            adapter = self._loaded(request.adapter or self._without)
            params = SamplingParams(**request.settings, output_kind=kind)
            self._llm.llm_engine.add_request(request.key, prompt, params, lora_request=adapter)
        except VLLMClientError as error:
            request.deliver(InputError(f"vLLM refuses the request: {error}"))
        except (VLLMError, TypeError, ValueError, RuntimeError) as error:
            request.deliver(error)
        else:
            self._running[request.key] = request

    def _loaded(self, adapter: ChatAdapter | None) -> LoRARequest | None:
        """Load an adapter here, where a failure ends one request and not the engine's step."""
        from vllm.lora.request import LoRARequest

        if adapter is None:
            return None
        request = LoRARequest(str(adapter.number), adapter.number, adapter.folder)
        self._llm.llm_engine.add_lora(request)
        return request

    def _deliver(self, output: RequestOutput) -> None:
        request = self._running.get(output.request_id)
        if request is None:  # dropped in the meantime
            return
        completion = output.outputs[0]
        if not output.finished:
            request.deliver(completion.text)
            return
        del self._running[output.request_id]
        logprobs: list[dict[str, float]] = []
        for position in completion.logprobs or ():
            logprobs.append({item.decoded_token or "": item.logprob for item in position.values()})
        reason = completion.finish_reason or "stop"
        written = len(completion.token_ids)
        request.deliver(Answer(completion.text, reason, tuple(logprobs), len(request.token_ids), written))


def _lora_settings(room: AdapterRoom | None) -> dict[str, Any]:
    """What vLLM must be started with."""
    if room is None:
        return {}
    largest = LoraConfig(rank=room.rank, targets=room.targets)
    # One more each, for the base's own on a CPU.
    return {**adapter_settings(largest), "max_loras": room.at_once + 1, "max_cpu_loras": room.in_memory + 1}
