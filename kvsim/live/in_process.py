"""vLLM in this process, for machines without a server: ``vllm.LLM``, stepped by a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from kvsim.errors import MissingExtraError
from kvsim.live.engine import Answer, Counters, EngineError, Identity, Look
from kvsim.live.server import settings_of


@dataclass
class _Request:
    """A request on the engine's thread; its times are told to ``loop``, which waits for them."""

    prompt: list[int]
    output_tokens: int
    ids: bool
    first: asyncio.Event | None
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Answer]
    submitted_s: float = 0.0
    times: list[float] = field(default_factory=list)
    output: list[int] = field(default_factory=list)


class InProcess:
    """An engine in this process; use it as an asynchronous context.

    model, arguments: as ``vllm.LLM`` takes them. All calls into vLLM are made by one thread, between steps: a request
    that comes during a step joins the next.
    """

    client = "in-process"

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        self._model = model
        self._arguments = dict(arguments)
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="vllm", daemon=True)
        self._requests: dict[str, _Request] = {}
        self._numbers = count()
        self._llm: Any = None

    async def __aenter__(self) -> InProcess:
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm", f"measuring an engine in this process ({error})") from None
        try:
            self._llm = await asyncio.to_thread(
                LLM,
                model=self._model,
                skip_tokenizer_init=True,
                disable_log_stats=False,
                **self._arguments,
            )
        except Exception as error:  # whatever vLLM raises, its words say why
            raise EngineError(f"vLLM does not start: {' '.join(str(error).split())[:500]}") from error
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._calls.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 30.0)
        self._llm = None

    async def look(self) -> Look:
        """Who the engine is and what it has counted."""
        config = self._llm.llm_engine.vllm_config
        engine = settings_of(
            {
                part: {key: _plain(value) for key, value in vars(getattr(config, part)).items()}
                for part in ("scheduler_config", "parallel_config", "model_config")
            }
        )
        engine |= {
            "block_size": config.cache_config.block_size,
            "num_gpu_blocks_override": config.cache_config.num_gpu_blocks,
            "enable_prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "max_model_len": config.model_config.max_model_len,
        }
        import vllm

        return Look(
            Identity(
                str(config.model_config.model), str(config.model_config.model), f"vllm {vllm.__version__}", engine
            ),
            await self._call(self._counted),
            None,
        )

    async def complete(
        self, prompt: Sequence[int], output_tokens: int, *, ids: bool = False, first: asyncio.Event | None = None
    ) -> Answer:
        """Generate exactly ``output_tokens`` tokens after a prompt of token ids. ``ids``: tell which; ``first`` is set
        when the first comes."""
        loop = asyncio.get_running_loop()
        request = _Request(list(prompt), output_tokens, ids, first, loop, loop.create_future())
        request.submitted_s = time.perf_counter()
        name = f"kvsim-{next(self._numbers)}"
        self._calls.put(lambda: self._add(name, request))
        try:
            return await request.done
        except asyncio.CancelledError:
            self._calls.put(lambda: self._abort(name))
            raise

    async def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache."""
        return bool(await self._call(self._llm.reset_prefix_cache))

    async def _call(self, function: Callable[[], Any]) -> Any:
        """What a function of vLLM's says on the engine's thread."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Any] = loop.create_future()

        def call() -> None:
            try:
                result = function()
            except Exception as error:
                loop.call_soon_threadsafe(told.set_exception, _failure(error))
            else:
                loop.call_soon_threadsafe(told.set_result, result)

        self._calls.put(call)
        return await told

    def _serve(self) -> None:
        """The engine's thread: calls first, then a step while there is work."""
        engine = self._llm.llm_engine
        while True:
            try:
                waiting = self._calls.get(block=not engine.has_unfinished_requests())
            except queue.Empty:
                try:
                    self._step(engine)
                except Exception as error:
                    for request in self._requests.values():
                        request.loop.call_soon_threadsafe(_fail, request.done, _failure(error))
                    self._requests.clear()
                    return
                continue
            if waiting is None:
                return
            waiting()

    def _step(self, engine: Any) -> None:
        for output in engine.step():
            request = self._requests.get(output.request_id)
            if request is None:
                continue
            now = time.perf_counter() - request.submitted_s
            new = output.outputs[0].token_ids
            request.times += [now] * len(new)
            request.output += new
            if request.first is not None and new:
                request.loop.call_soon_threadsafe(request.first.set)
            if output.finished:
                del self._requests[output.request_id]
                request.loop.call_soon_threadsafe(_tell, request, output.num_cached_tokens)

    def _add(self, name: str, request: _Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            max_tokens=request.output_tokens,
            min_tokens=request.output_tokens,
            ignore_eos=True,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        try:
            self._llm.llm_engine.add_request(name, {"prompt_token_ids": request.prompt}, sampling)
        except Exception as error:
            request.loop.call_soon_threadsafe(_fail, request.done, _failure(error))
            return
        self._requests[name] = request

    def _abort(self, name: str) -> None:
        if self._requests.pop(name, None) is not None:
            self._llm.llm_engine.abort_request([name])

    def _counted(self) -> Counters:
        """vLLM's own metrics, and the requests that this process has under way."""
        found: dict[str, Any] = {metric.name: metric for metric in self._llm.get_metrics()}

        def total(name: str) -> int:
            return int(found[name].value) if name in found else 0

        def times(name: str) -> tuple[float, int]:
            return (float(found[name].sum), int(found[name].count)) if name in found else (0.0, 0)

        prefill_s, prefills = times("vllm:request_prefill_time_seconds")
        decode_s, decodes = times("vllm:request_decode_time_seconds")
        return Counters(
            running=len(self._requests),
            waiting=0,
            prompt_tokens=total("vllm:prompt_tokens"),
            output_tokens=total("vllm:generation_tokens"),
            cached_tokens=total("vllm:prefix_cache_hits"),
            preemptions=total("vllm:num_preemptions"),
            prefill_s=prefill_s,
            prefills=prefills,
            decode_s=decode_s,
            decodes=decodes,
        )


def _tell(request: _Request, cached_tokens: int | None) -> None:
    if request.done.done():
        return
    if len(request.times) != request.output_tokens:
        asked, sent = request.output_tokens, len(request.times)
        _fail(request.done, EngineError(f"vLLM was asked for {asked} tokens and gave {sent}"))
        return
    request.done.set_result(
        Answer(
            request.submitted_s,
            tuple(request.times),
            len(request.prompt),
            cached_tokens,
            tuple(request.output) if request.ids else None,
        )
    )


def _fail(future: asyncio.Future[Answer], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)


def _failure(error: Exception) -> EngineError:
    return EngineError(f"vLLM failed: {' '.join(str(error).split())[:500] or type(error).__name__}")


def _plain(value: Any) -> Any:
    """Enumerations and dtypes as the words that stand for them."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return getattr(value, "value", value)
    return str(value)
