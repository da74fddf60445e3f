"""What was read, said for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kvsim.commands._format import count, percent

if TYPE_CHECKING:
    from kvsim.trajectory import Batch


def input_object(batch: Batch) -> dict[str, Any]:
    """Counts of the read, as JSON."""
    report = batch.report
    return {
        "trajectories": len(batch),
        "turns": batch.turns,
        "prompt_tokens": int(batch.prompt_tokens.sum()),
        "new_tokens": int((batch.prompt_tokens - batch.kept_tokens).sum()),
        "output_tokens": int(batch.output_tokens.sum()),
        "estimated_token_share": batch.estimated_share,
        **({part.name: getattr(report, part.name) for part in fields(report)} if report is not None else {}),
    }


def read_facts(batch: Batch) -> list[str]:
    """What was read, a line each."""
    report, lines = batch.report, []
    size = f"{count(len(batch), 'trajectory', 'trajectories')}, {count(batch.turns, 'turn')}"
    if report is not None:
        formats = ", ".join(report.formats)
        size = f"{count(report.files, 'file')} ({formats or 'none readable'}): {size}"
        if report.tool_results:
            size += f", {count(report.tool_results, 'tool result')}"
    lines.append(size)
    read = input_object(batch)
    estimated = percent(batch.estimated_share) if batch.estimated_share else "none"
    lines.append(
        f"{count(read['prompt_tokens'])} prompt tokens, {count(read['new_tokens'])} of them new; "
        f"{count(read['output_tokens'])} output tokens; {estimated} estimated"
    )
    if report is not None:
        lines += _counted("left out by design", report.skipped)
        lines += _counted("dropped as broken", report.dropped)
        lines += _counted("kept with a remark", report.flagged)
    return lines


def read_warnings(batch: Batch) -> list[str]:
    """What of the read may surprise, with what to do."""
    report, warnings = batch.report, []
    if report is not None and report.dropped:
        what = count(report.dropped.total(), "broken record")
        warnings.append(f"{what} left out; the first: {report.first_dropped[0]}")
    if batch.estimated_share and report is not None:
        advice = "; --tokenizer counts with a real vocabulary" if report.counted_with.startswith("characters") else ""
        share = percent(batch.estimated_share)
        warnings.append(f"{share} of new and output tokens were estimated from text by {report.counted_with}{advice}")
    return warnings


def _counted(label: str, counts: Mapping[str, int]) -> list[str]:
    return [f"{label}: {number:,} x {reason}" for reason, number in sorted(counts.items(), key=lambda item: -item[1])]
