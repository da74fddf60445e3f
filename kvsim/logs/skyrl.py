"""Evaluation dumps of SkyRL (``dump_per_dataset_eval_results``): one rollout a line, one file a data source.

    {"input_prompt": "...", "output_response": "...", "score": 1.0, "stop_reason": "stop", "env_class": "...", ...}

Texts keep their special tokens, which cut them into turns; tokens are counted from the text; the times of tools are not
logged. ``aggregated_results.jsonl``, which lies beside them, holds metrics and is skipped.
"""

from __future__ import annotations

import msgspec

from kvsim.logs.reading import Format, Reading
from kvsim.logs.records import reader_of
from kvsim.logs.rollout_text import cut, said_in, turns_of
from kvsim.logs.source import Source
from kvsim.logs.turns import add_turns


class _Rollout(msgspec.Struct):
    input_prompt: str | None = None
    output_response: str = ""


def _add(reading: Reading, rollout: _Rollout, source: Source, line: int) -> None:
    if rollout.input_prompt is None:
        reading.report.skip("metrics of a whole evaluation")
        return
    pieces = cut(rollout.output_response)
    add_turns(
        reading,
        turns_of(rollout.input_prompt, pieces, reading.count),
        id=f"{source.stem}:{line}",
        source=source,
        line=line,
        estimated=True,
        said=said_in(rollout.input_prompt, pieces) if reading.keep_text else (),
    )


FORMAT = Format(
    name="skyrl",
    looks_for="evaluation dumps of SkyRL with 'input_prompt' and 'output_response'",
    matches=lambda paths: (
        {"input_prompt", "output_response"} <= paths or any(path.startswith("eval/") for path in paths)
    ),
    reader=reader_of(_Rollout, _add),
)
