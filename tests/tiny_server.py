"""A small HTTP server that speaks vLLM's protocol, well or badly: it schedules steps and keeps a prefix cache."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from aiohttp import web

BLOCK = 16


@dataclass
class Manners:
    """How it behaves; may be changed while it runs. Counts are of completions since the start.

    fail_at: number of the first completion that is answered with 500, fail_count: how many are. die_at: the whole
    server goes away at that completion. hang_at: from that one on nothing is sent. rename_at: from that one on it
    serves ``other-model``. reroot_at: from that one on the model comes from elsewhere. foreign_at: from that one on
    others' prompts are counted too. slow_at: from that one on steps take eight times as long. hold_at: from that one on
    tokens are held back until the last one is there.
    """

    fail_at: int | None = None
    fail_count: int = 1
    die_at: int | None = None
    hang_at: int | None = None
    rename_at: int | None = None
    reroot_at: int | None = None
    foreign_at: int | None = None
    slow_at: int | None = None
    hold_at: int | None = None
    metrics: bool = True
    resets: bool = True
    step_s: float = 1e-3
    token_s: float = 4e-6


@dataclass
class _Request:
    prompt: list[int]
    output: int
    cached: int = 0
    computed: int = 0
    tokens: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    sent: int = 0
    first_s: float = 0.0
    prefill_s: float = 0.0


class TinyServer:
    """Runs in a thread of its own: ``with TinyServer(Manners()) as server: server.url``."""

    def __init__(
        self, manners: Manners | None = None, *, model: str = "tiny", root: str = "Qwen/Qwen2.5-0.5B-Instruct"
    ) -> None:
        self.manners = manners or Manners()
        self.completions = 0
        self.model, self.root = model, root
        self.blocks, self.step_tokens, self.max_num_seqs, self.max_model_len = 96, 256, 8, 512
        self._waiting: list[_Request] = []
        self._running: list[_Request] = []
        self._cache: set[tuple[int, ...]] = set()
        self._counts = dict.fromkeys(("prompt_tokens", "generation_tokens", "prefix_cache_hits"), 0)
        self._prefills = 0
        self._prefill_s = 0.0
        self._decodes = 0
        self._decode_s = 0.0
        self._ready = threading.Event()

    def __enter__(self) -> TinyServer:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _main(self) -> None:
        self._loop, self._over, self._work = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/reset_prefix_cache", self._reset)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        engine = asyncio.create_task(self._engine())
        self._ready.set()
        await self._over.wait()
        engine.cancel()
        await runner.cleanup()

    async def _engine(self) -> None:
        while True:
            if not self._waiting and not self._running:
                self._work.clear()
                await self._work.wait()
            budget, chunks = self.step_tokens - len(self._running), []
            for request in [one for one in self._running if one.computed < len(one.prompt)] + self._waiting:
                if budget <= 0 or (request in self._waiting and len(self._running) >= self.max_num_seqs):
                    break
                if request in self._waiting:
                    self._waiting.remove(request)
                    self._running.append(request)
                    request.cached = request.computed = self._hit(request.prompt)
                    self._counts["prefix_cache_hits"] += request.cached
                taken = min(budget, len(request.prompt) - request.computed)
                budget -= taken
                chunks.append((request, taken))
            took = self.manners.step_s + self.manners.token_s * sum(taken for _, taken in chunks)
            took += 2e-5 * len(self._running)
            await asyncio.sleep(8 * took if self._reached(self.manners.slow_at) else took)
            for request, taken in chunks:
                request.computed += taken
                if request.computed == len(request.prompt):
                    request.prefill_s = took
                    self._keep(request.prompt)
            for request in list(self._running):
                if request.computed == len(request.prompt):
                    request.sent += 1
                    request.first_s = request.first_s or time.perf_counter()
                    self._counts["generation_tokens"] += 1
                    request.tokens.put_nowait(request.sent)
                    if request.sent == request.output:
                        self._running.remove(request)
                        self._prefills, self._prefill_s = self._prefills + 1, self._prefill_s + request.prefill_s
                        self._decodes += 1
                        self._decode_s += time.perf_counter() - request.first_s

    def _reached(self, number: int | None) -> bool:
        return number is not None and self.completions >= number

    def _hit(self, prompt: list[int]) -> int:
        full = (len(prompt) - 1) // BLOCK
        for blocks in range(full, 0, -1):
            if tuple(prompt[: blocks * BLOCK]) in self._cache:
                return blocks * BLOCK
        return 0

    def _keep(self, prompt: list[int]) -> None:
        for blocks in range(1, len(prompt) // BLOCK + 1):
            self._cache.add(tuple(prompt[: blocks * BLOCK]))

    async def _models(self, _: web.Request) -> web.Response:
        name = "other-model" if self._reached(self.manners.rename_at) else self.model
        root = "gpt2" if self._reached(self.manners.reroot_at) else self.root
        model = {"id": name, "root": root, "max_model_len": self.max_model_len, "parent": None}
        return web.json_response({"data": [model]})

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _metrics(self, _: web.Request) -> web.Response:
        if not self.manners.metrics:
            raise web.HTTPNotFound
        lines = [
            f'vllm:num_requests_running{{engine="0",model_name="tiny"}} {len(self._running)}.0',
            f'vllm:num_requests_waiting{{engine="0",model_name="tiny"}} {len(self._waiting)}.0',
            f'vllm:cache_config_info{{block_size="{BLOCK}",num_gpu_blocks="{self.blocks}",cache_dtype="auto",'
            'enable_prefix_caching="True",engine="0"} 1.0',
            f"vllm:request_prefill_time_seconds_sum {self._prefill_s}",
            f"vllm:request_prefill_time_seconds_count {self._prefills}",
            f"vllm:request_decode_time_seconds_sum {self._decode_s}",
            f"vllm:request_decode_time_seconds_count {self._decodes}",
            "process_start_time_seconds 1.7e9",
            *(f'vllm:{name}_total{{engine="0"}} {count}.0' for name, count in self._counts.items()),
        ]
        return web.Response(text="# HELP\n" + "\n".join(lines) + "\n")

    async def _reset(self, _: web.Request) -> web.Response:
        if not self.manners.resets:
            raise web.HTTPNotFound
        self._cache.clear()
        return web.json_response({"success": True})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        manners, self.completions = self.manners, self.completions + 1
        if asked["model"] != self.model:
            return web.json_response({"error": {"message": "The model does not exist."}}, status=404)
        if self._reached(manners.die_at):
            self._over.set()
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPInternalServerError
        if manners.fail_at is not None and 0 <= self.completions - manners.fail_at < manners.fail_count:
            return web.json_response({"error": {"message": "out of sorts"}}, status=500)
        if self._reached(manners.hang_at):
            await asyncio.sleep(3600)
        self._counts["prompt_tokens"] += len(asked["prompt"]) + 7 * self._reached(manners.foreign_at)
        job = _Request(asked["prompt"], asked["max_tokens"])
        self._waiting.append(job)
        self._work.set()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        held = [await job.tokens.get() for _ in range(job.output)] if self._reached(manners.hold_at) else []
        for number in range(1, job.output + 1):
            token = held[number - 1] if held else await job.tokens.get()
            usage = {"prompt_tokens": len(job.prompt), "completion_tokens": number}
            ids = [token] if asked.get("return_token_ids") else None
            await response.write(_event({"choices": [{"index": 0, "text": "", "token_ids": ids}], "usage": usage}))
        details = {"cached_tokens": job.cached}
        await response.write(_event({"choices": [], "usage": {**usage, "prompt_tokens_details": details}}))
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(data: object) -> bytes:
    return b"data: " + web.json_response(data).body + b"\n\n"  # type: ignore[operator]
