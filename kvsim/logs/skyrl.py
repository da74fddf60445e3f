"""Evaluation dumps of SkyRL (``dump_per_dataset_eval_results``): one rollout a line, one file a data source.

    {"input_prompt": "...", "output_response": "...", "score": 1.0, "stop_reason": "stop", "env_class": "...", ...}

Texts keep their special tokens, which cut them into turns; tokens are counted from the text; the times of tools are not
logged. ``aggregated_results.jsonl``, which lies beside them, holds metrics and is skipped.
"""

from __future__ import annotations

import msgspec

from kvsim.logs.reading import Format, Reading, decode
from kvsim.logs.rollout_text import cut, said_in, turns_of
from kvsim.logs.source import Source
from kvsim.logs.turns import add_turns


class _Rollout(msgspec.Struct):
    input_prompt: str | None = None
    output_response: str = ""


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Rollout)

    def read(self, source: Source) -> None:
        for text in self._reading.texts(source):
            with self._reading.attempt():
                rollout = decode(self._decoder, text, source)
                if rollout.input_prompt is None:
                    self._reading.report.skip("metrics of a whole evaluation")
                    continue
                pieces = cut(rollout.output_response)
                add_turns(
                    self._reading,
                    turns_of(rollout.input_prompt, pieces, self._reading.count),
                    id=f"{source.stem}:{text.line}",
                    source=source,
                    line=text.line,
                    estimated=True,
                    said=said_in(rollout.input_prompt, pieces) if self._reading.keep_text else (),
                )

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="skyrl",
    looks_for="evaluation dumps of SkyRL with 'input_prompt' and 'output_response'",
    matches=lambda paths: (
        {"input_prompt", "output_response"} <= paths or any(path.startswith("eval/") for path in paths)
    ),
    reader=_Reader,
)
