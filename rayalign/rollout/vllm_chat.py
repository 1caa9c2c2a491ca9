"""vLLM as a chat server: text in, whole answers out, from the same kind of engine that writes rollouts.

callers (an event loop)          the engine's thread
complete -> inbox            ->  add, step, step, ...   idle: waits on the inbox
  future of the request  <-      answer (call_soon_threadsafe)
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayalign.config import RolloutConfig
from rayalign.errors import ActorError, DeadlineError, InputError
from rayalign.rollout.vllm import open_llm

if TYPE_CHECKING:
    from vllm import RequestOutput

ChatPrompt = str | Sequence[Mapping[str, str]]
"""a text to continue, or a dialogue of `role` and `content`"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote."""

    text: str
    finish_reason: str
    """stop or length"""
    logprobs: tuple[Mapping[str, float], ...]
    """for each token: its text and those of the likeliest others -> log-prob; the token itself first"""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class _Request:
    key: str
    token_ids: Sequence[int]
    settings: Mapping[str, Any]
    answer: asyncio.Future[Answer]

    def settle(self, outcome: Answer | Exception) -> None:
        """Deliver the answer, or the error, from the engine's thread to the caller's loop."""
        self.answer.get_loop().call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Answer | Exception) -> None:
        if self.answer.done():  # the caller has gone
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class VllmChat:
    """One model; requests at the same time share the engine's steps."""

    def __init__(self, model_path: str, config: RolloutConfig, timeout: float) -> None:
        self._llm = open_llm(model_path, config)
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._context = config.context
        self._timeout = timeout
        self._inbox: queue.SimpleQueue[_Request | str] = queue.SimpleQueue()
        """requests, and keys of those to drop"""
        self._running: dict[str, _Request] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._serve, name="vllm", daemon=True).start()

    async def complete(self, prompt: ChatPrompt, settings: Mapping[str, Any]) -> Answer:
        """The answer to a prompt.

        Args:
            settings: vLLM's sampling parameters.

        Raises:
            InputError: the prompt leaves no room in the context, or a dialogue for a model without chat template.
            DeadlineError: no answer within the timeout.
            ActorError: the engine failed.
        """
        token_ids = self._encode(prompt)
        room = self._context - len(token_ids)
        if room < 1:
            raise InputError(f"the prompt has {len(token_ids)} tokens, the model's context {self._context}; shorten it")
        limited = {**settings, "max_tokens": min(room, settings.get("max_tokens") or room)}
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = _Request(str(next(self._numbers)), token_ids, limited, answer)
        self._inbox.put(request)
        try:
            return await asyncio.wait_for(answer, self._timeout)
        except TimeoutError:
            raise DeadlineError(f"vLLM gave no answer in {self._timeout:g} s; send fewer requests at once") from None
        except (RuntimeError, TypeError, ValueError) as error:
            raise ActorError(f"vLLM failed with {type(error).__name__}: {error}; restart the service") from error
        finally:
            if answer.cancelled():  # at the deadline, or because the caller has gone
                self._inbox.put(request.key)

    def _encode(self, prompt: ChatPrompt) -> list[int]:
        if isinstance(prompt, str):
            return list(self._tokenizer(prompt).input_ids)
        if not self._tokenizer.chat_template:
            raise InputError("the model has no chat template; use a template without ChatML marks, or another model")
        return list(self._tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False))

    def _serve(self) -> None:
        engine = self._llm.llm_engine
        while True:
            self._admit(block=not self._running)
            try:
                outputs = engine.step()
            except RuntimeError as error:
                engine.abort_request(list(self._running))
                for request in self._running.values():
                    request.settle(error)
                self._running.clear()
                continue
            for output in outputs:
                if output.finished:
                    self._deliver(output)

    def _admit(self, block: bool) -> None:
        while block or not self._inbox.empty():
            entry = self._inbox.get()
            if isinstance(entry, str):
                self._running.pop(entry, None)
                self._llm.llm_engine.abort_request([entry])
            else:
                self._add(entry)
            block = not self._running

    def _add(self, request: _Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        try:
            params = SamplingParams(**request.settings, output_kind=RequestOutputKind.FINAL_ONLY)
            self._llm.llm_engine.add_request(request.key, {"prompt_token_ids": list(request.token_ids)}, params)
        except (TypeError, ValueError) as error:  # vLLM refuses the sampling parameters
            request.settle(error)
        else:
            self._running[request.key] = request

    def _deliver(self, output: RequestOutput) -> None:
        request = self._running.pop(output.request_id, None)
        if request is None:  # dropped in the meantime
            return
        completion = output.outputs[0]
        logprobs: list[dict[str, float]] = []
        for position in completion.logprobs or ():
            logprobs.append({item.decoded_token or "": item.logprob for item in position.values()})
        reason = completion.finish_reason or "stop"
        written = len(completion.token_ids)
        request.settle(Answer(completion.text, reason, tuple(logprobs), len(request.token_ids), written))
