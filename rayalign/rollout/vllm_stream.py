"""vLLM as a chat server wants it: text in, text out piece by piece, from the same engine that writes rollouts.

callers (an event loop)             the engine's thread
stream -> inbox                ->   add, step, step, ...   idle: waits on the inbox
  queue of the request  <- pieces (call_soon_threadsafe)
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayalign.config import RolloutConfig
from rayalign.errors import ActorError, DeadlineError, InputError
from rayalign.rollout.vllm import open_llm

if TYPE_CHECKING:
    from vllm import RequestOutput


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step of the engine added to an answer."""

    text: str
    finish_reason: str | None
    """stop or length with the last piece"""
    logprobs: tuple[Mapping[str, float], ...]
    """for each new token: its text and those of the likeliest others -> log-prob; the token itself first"""
    prompt_tokens: int
    completion_tokens: int
    """of this piece"""


@dataclass(frozen=True, slots=True)
class _Listener:
    key: str
    token_ids: Sequence[int]
    settings: Mapping[str, Any]
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Piece | Exception]

    def send(self, piece: Piece | Exception) -> None:
        """Pass a piece from the engine's thread to the listener's loop."""
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class VllmStream:
    """One model; any number of requests at once."""

    def __init__(self, model_path: str, config: RolloutConfig, timeout: float) -> None:
        self._llm = open_llm(model_path, config)
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._context = config.context
        self._timeout = timeout
        self._inbox: queue.SimpleQueue[_Listener | str] = queue.SimpleQueue()
        """requests, and keys of those to be dropped"""
        self._running: dict[str, _Listener] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._serve, name="vllm", daemon=True).start()

    async def stream(
        self, prompt: Sequence[Mapping[str, str]] | str, settings: Mapping[str, Any]
    ) -> AsyncGenerator[Piece, None]:
        """The answer to a dialogue or to a plain text, piece by piece.

        Args:
            settings: vLLM's sampling parameters.

        Raises:
            InputError: the prompt leaves no room in the context, or a dialogue for a model without chat template.
            DeadlineError: no piece for as long as the timeout.
            ActorError: the engine failed.
        """
        ids = self._encode(prompt)
        limit = self._context - len(ids)
        if limit < 1:
            raise InputError(f"the prompt has {len(ids)} tokens, the model's context {self._context}; shorten it")
        limited = {**settings, "max_tokens": min(limit, settings.get("max_tokens") or limit)}
        listener = _Listener(str(next(self._numbers)), ids, limited, asyncio.get_running_loop(), asyncio.Queue())
        self._inbox.put(listener)
        finished = False
        try:
            while not finished:
                piece = await self._next(listener)
                if isinstance(piece, Exception):
                    raise ActorError(
                        f"vLLM failed with {type(piece).__name__}: {piece}; restart the service"
                    ) from piece
                finished = piece.finish_reason is not None
                yield piece
        finally:
            if not finished:
                self._inbox.put(listener.key)  # nobody waits for the rest

    async def _next(self, listener: _Listener) -> Piece | Exception:
        try:
            return await asyncio.wait_for(listener.pieces.get(), self._timeout)
        except TimeoutError:
            raise DeadlineError(f"vLLM wrote nothing for {self._timeout:g} s; ask for less at once") from None

    def _encode(self, prompt: Sequence[Mapping[str, str]] | str) -> list[int]:
        if isinstance(prompt, str):
            return list(self._tokenizer(prompt).input_ids)
        if not self._tokenizer.chat_template:
            raise InputError("the model has no chat template; ask /v1/completions with a plain prompt")
        return list(self._tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False))

    def _serve(self) -> None:
        engine = self._llm.llm_engine
        while True:
            self._admit(block=not self._running)
            try:
                outputs = engine.step()
            except RuntimeError as error:
                self._llm.llm_engine.abort_request(list(self._running))
                for listener in self._running.values():
                    listener.send(error)
                self._running.clear()
                continue
            for output in outputs:
                self._deliver(output)

    def _admit(self, block: bool) -> None:
        while block or not self._inbox.empty():
            arrival = self._inbox.get()
            block = False
            if isinstance(arrival, str):
                self._running.pop(arrival, None)
                self._llm.llm_engine.abort_request([arrival])
                block = not self._running
                continue
            try:
                self._add(arrival)
            except (TypeError, ValueError) as error:  # of sampling parameters
                arrival.send(error)
                block = not self._running

    def _add(self, listener: _Listener) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(**listener.settings, output_kind=RequestOutputKind.DELTA)
        self._llm.llm_engine.add_request(listener.key, {"prompt_token_ids": list(listener.token_ids)}, params)
        self._running[listener.key] = listener

    def _deliver(self, output: RequestOutput) -> None:
        listener = self._running.get(output.request_id)
        if listener is None:  # dropped in the meantime
            return
        answer = output.outputs[0]
        logprobs = tuple(_by_text(position) for position in answer.logprobs or ())
        written = len(answer.token_ids)
        listener.send(Piece(answer.text, answer.finish_reason, logprobs, len(listener.token_ids), written))
        if output.finished:
            del self._running[output.request_id]


def _by_text(position: Mapping[int, Any]) -> dict[str, float]:
    """The text of each token that vLLM returns at a position -> its log-prob."""
    return {item.decoded_token or "": item.logprob for item in position.values()}
