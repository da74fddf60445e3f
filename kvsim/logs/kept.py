"""How much of the parent's context a prompt still begins with, by what evidence a log has."""

from __future__ import annotations

#: Remarks for ``ReadReport.flagged``.
SHRANK = "context shrank: only what was logged as cached is taken as kept"
REWRITTEN = "output did not come back whole: little more than the parent's prompt is kept"


def by_lengths(prompt: int, cached: int, parent_prompt: int, parent_output: int) -> tuple[int, str | None]:
    """Kept tokens where only counts were logged, and a remark where the context did not simply grow.

    A prompt at least as long as the parent's prompt + output extends it. One that is shorter, but not shorter than the
    parent's prompt, lost some of the output on the way back (reasoning is often left out). One shorter still was
    compacted: then no more is kept than the log says was found in the cache. ``cached`` (-1 unknown) is evidence of
    what was kept in both cases; more than the whole prompt is no count of it, and no evidence.
    """
    if cached > prompt:
        cached = -1
    if prompt >= parent_prompt + parent_output:
        return parent_prompt + parent_output, None
    if prompt >= parent_prompt:
        return min(prompt, max(parent_prompt, min(cached, parent_prompt + parent_output))), REWRITTEN
    return min(prompt, max(cached, 0), parent_prompt + parent_output), SHRANK


def by_blocks(shared: int, block_size: int, prompt: int, parent_prompt: int, parent_output: int) -> int:
    """Kept tokens where the prompts were logged as hashes of blocks, ``shared`` leading ones of which are equal.

    Output is not in the hashes: where all full blocks of the parent's prompt are shared, the prompt is taken to extend
    the parent's prompt + output; else the shared blocks are kept.
    """
    if parent_prompt // block_size <= shared:
        return min(prompt, parent_prompt + parent_output)
    return min(shared * block_size, prompt, parent_prompt + parent_output)
