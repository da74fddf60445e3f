"""vLLM's OpenAI-compatible server over HTTP: prompts of token ids on ``/v1/completions``, streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from kvsim.errors import InputError, MissingExtraError
from kvsim.live.engine import Answer, EngineError, Identity, Look
from kvsim.live.metrics_page import MetricsPage

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 5.0
"""Longest wait for a connection."""

LONGEST_LINE = 2**23
"""Bytes of one streamed event: the first holds the prompt where token ids are asked for."""

RESET_ATTEMPTS = 20
RESET_WAIT_S = 0.1
"""A reset is refused while blocks are held, which is over at once on an idle engine."""

_SCHEDULER = {
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_num_seqs": "max_num_seqs",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "policy": "scheduling_policy",
    "async_scheduling": "async_scheduling",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "scheduler_reserve_full_isl": "scheduler_reserve_full_isl",
}


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Server:
    """A server at a URL; use it as an asynchronous context.

    model: the name to ask for; the first that the server lists by default. silence_s: how long the server may send
    nothing while an answer is due before it counts as hung. Every failure is an :class:`EngineError`.
    """

    client = "http"

    def __init__(
        self, url: str, *, model: str | None = None, api_key: str | None = None, silence_s: float = 120.0
    ) -> None:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.netloc:
            raise InputError(f"{url!r} is no URL of a server", field="url", remedy="Give http://host:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._silence_s = silence_s
        self._session: aiohttp.ClientSession | None = None
        self._version = ""
        self._settings: dict[str, Any] = {}
        self._started: float | None = None
        self._decode = msgspec.json.Decoder(_Chunk)

    async def __aenter__(self) -> Server:
        try:
            import aiohttp
        except ImportError:
            raise MissingExtraError("aiohttp", "live", "measuring a server") from None
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._silence_s),
            read_bufsize=LONGEST_LINE,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def look(self) -> Look:
        """Who the server is and what it has counted; version and settings are asked again after a restart."""
        model = await self._listed()
        page = MetricsPage(await self._text("/metrics", otherwise=""))
        if page.engines > 1:
            raise EngineError(
                f"{self.url} runs {page.engines} engines behind one door, and which of them answers is not known: "
                "start it with --data-parallel-size 1"
            )
        if page.total("vllm:spec_decode_num_drafts_total"):
            raise EngineError(f"{self.url} decodes speculatively, which the law does not describe: switch it off")
        if not self._version or page.started != self._started:
            self._version = await self._asked_version()
            self._settings = await self._asked_settings()
            self._started = page.started
        engine: dict[str, Any] = {**self._settings, **page.cache()}
        if model.max_model_len:
            engine["max_model_len"] = model.max_model_len
        identity = Identity(model.id, model.root or model.id, f"vllm {self._version}", engine)
        return Look(identity, page.counters(), page.started)

    async def complete(
        self, prompt: Sequence[int], output_tokens: int, *, ids: bool = False, first: asyncio.Event | None = None
    ) -> Answer:
        """Generate exactly ``output_tokens`` tokens after a prompt of token ids. ``ids``: tell which; ``first`` is set
        when the first comes."""
        body = {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": output_tokens,
            "min_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "return_token_ids": ids,
        }
        data = msgspec.json.encode(body)
        submitted = time.perf_counter()
        times: list[float] = []
        output: list[int] = []
        usage = _Usage()
        async with self._open("POST", "/v1/completions", data) as response:
            async for line in response.content:
                if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
                    continue
                now = time.perf_counter() - submitted
                chunk = self._chunk(line[5:])
                usage = chunk.usage or usage
                output += (chunk.choices[0].token_ids if chunk.choices else None) or ()
                arrived = max(usage.completion_tokens, len(output)) - len(times)
                times += [now] * arrived
                if first is not None and times:
                    first.set()
        if len(times) != output_tokens:
            raise EngineError(f"{self.url} was asked for {output_tokens} tokens and sent {len(times)}", again=True)
        details = usage.prompt_tokens_details
        return Answer(
            submitted,
            tuple(times),
            usage.prompt_tokens or len(prompt),
            details.cached_tokens if details else None,
            tuple(output) if ids and len(output) == output_tokens else None,
        )

    async def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False where the server has no such route (VLLM_SERVER_DEV_MODE is not set)."""
        for _ in range(RESET_ATTEMPTS):
            try:
                async with self._open("POST", "/reset_prefix_cache") as response:
                    body = await response.read()
            except EngineError as failure:
                if failure.again:
                    raise
                return False
            if b"false" not in body:  # older versions answer with nothing
                return True
            await asyncio.sleep(RESET_WAIT_S)
        return False

    async def _listed(self) -> _Model:
        """The model to ask for, as the server lists it."""
        try:
            models = msgspec.json.decode(await self._text("/v1/models"), type=_Models).data
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.url}/v1/models is no list of models: {error}") from None
        if not models:
            raise EngineError(f"{self.url} lists no model")
        own = [model for model in models if model.parent is None] or models
        if self._model is None:
            self._model = own[0].id
        for model in models:
            if model.id == self._model:
                return model
        listed = ", ".join(repr(model.id) for model in models)
        raise EngineError(f"{self.url} does not serve the model {self._model!r}; it serves {listed}")

    async def _asked_version(self) -> str:
        try:
            return str(msgspec.json.decode(await self._text("/version", otherwise="{}"))["version"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return "unknown"

    async def _asked_settings(self) -> dict[str, Any]:
        """The engine's arguments where the server tells (VLLM_SERVER_DEV_MODE is set)."""
        text = await self._text("/server_info?config_format=json", otherwise="{}")
        try:
            config = msgspec.json.decode(text).get("vllm_config")
        except (msgspec.DecodeError, AttributeError):
            return {}
        return settings_of(config) if isinstance(config, Mapping) else {}

    async def _text(self, path: str, otherwise: str | None = None) -> str:
        """A page's text; ``otherwise`` where the server has no such page."""
        try:
            async with self._open("GET", path) as response:
                return str(await response.text())
        except EngineError as failure:
            if failure.again or otherwise is None:
                raise
            return otherwise

    @asynccontextmanager
    async def _open(self, method: str, path: str, data: bytes | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        if self._session is None:
            raise RuntimeError("a Server is used as 'async with Server(...) as server'")
        where = f"{self.url}{path.partition('?')[0]}"
        headers = {"Content-Type": "application/json"} if data is not None else None
        try:
            async with self._session.request(method, self.url + path, data=data, headers=headers) as response:
                if response.status >= 400:
                    again = response.status >= 500 or response.status == 429
                    raise EngineError(
                        f"{where} answers {response.status}: {_reason(await response.text())}", again=again
                    )
                yield response
        except aiohttp.SocketTimeoutError:
            raise EngineError(f"{where} hangs: nothing came for {self._silence_s:g} s", again=True) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise EngineError(f"no server answers at {self.url} ({reason})", again=True) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
            raise EngineError(f"{where} broke off: {reason}", again=True) from None

    def _chunk(self, data: bytes) -> _Chunk:
        try:
            chunk = self._decode.decode(data)
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.url} streams what is no completion: {error}", again=True) from None
        if chunk.error:
            raise EngineError(f"{self.url} broke an answer off: {_reason_of(chunk.error)}", again=True)
        return chunk


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Engine arguments from vLLM's whole configuration, by :class:`kvsim.EngineConfig`'s names."""
    scheduler = config.get("scheduler_config") or {}
    found = {name: scheduler[key] for key, name in _SCHEDULER.items() if scheduler.get(key) is not None}
    ranks = (config.get("parallel_config") or {}).get("tensor_parallel_size")
    if ranks:
        found["tensor_parallel_size"] = ranks
    model = config.get("model_config") or {}
    if isinstance(model.get("dtype"), str):
        found["dtype"] = model["dtype"].removeprefix("torch.")
    if isinstance(model.get("quantization"), str):
        found["quantization"] = model["quantization"]
    return found


def _reason(text: str) -> str:
    """What an error page says, in one line."""
    try:
        return _reason_of(msgspec.json.decode(text))
    except msgspec.DecodeError:
        return " ".join(text.split())[:200] or "nothing"


def _reason_of(error: Any) -> str:
    for key in ("error", "message", "detail"):
        if isinstance(error, Mapping) and key in error:
            return _reason_of(error[key])
    return " ".join(str(error).split())[:200]
