"""Changes that may be worth it, the most promising first, made one by one as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.insight.what_if.compact import SUMMARY_TOKENS, Compact, compactable, heads, rows_beyond
from kvsim.insight.what_if.drop_call import DropCalls
from kvsim.insight.what_if.families import turn_of
from kvsim.insight.what_if.merge import Links, Merge
from kvsim.insight.what_if.responses import Responses
from kvsim.insight.what_if.tool_descriptions import ShortenTools, definitions
from kvsim.insight.what_if.truncate import Truncate

if TYPE_CHECKING:
    from kvsim.insight.what_if.change import AgentChange
    from kvsim.insight.what_if.expected import Expected
    from kvsim.insight.what_if.families import Families
    from kvsim.trajectory import Batch, Ints

Floats = npt.NDArray[np.float64]

TRUNCATE_TO = 1000
"""Tokens that truncated responses keep, unless told otherwise."""

_COMPACT_AT = (8_000, 16_000, 32_000, 64_000, 128_000, 256_000)
UNUSED_TO = 100
"""Tokens that responses keep which nothing refers to."""
_REPEATED = "the model goes on as it did with the same response before it a second time"
_UNUSED = "a response is unused where none of its words comes again: a hint, see docs/patterns.md"
_COMPACTED = "a summary of {:,} tokens is taken to do as well as the context it replaces"


@dataclass(frozen=True)
class Candidates:
    """Changes of one kind and scope, as many as ``expected_s``, which they should save to first order."""

    scope: str
    expected_s: Floats
    make: Callable[[int], AgentChange]

    def best_first(self) -> Ints:
        """Their numbers by falling expectation, those that should save nothing left out."""
        order = np.argsort(-self.expected_s, kind="stable")
        return order[self.expected_s[order] > 0]


@dataclass(frozen=True)
class Wishes:
    """How changes are made. ``parallel``: tools whose neighbouring calls are taken not to need each other's results."""

    truncate_to: int = TRUNCATE_TO
    summary_tokens: int = SUMMARY_TOKENS
    tools_share: float = 0.5
    parallel: frozenset[str] = frozenset()
    chains: tuple[tuple[int, ...], ...] = ()
    """Calls found not to need each other's results, as :class:`~kvsim.insight.what_if.merge.Merge` takes them."""
    repeated: tuple[int, ...] = ()
    """Turns that read nothing but responses to calls that could only bring what was known."""
    unused: tuple[int, ...] = ()
    """Turns that read long responses that nothing later refers to."""


class Finder:
    """Finds the changes that a batch offers."""

    def __init__(self, batch: Batch, families: Families, expected: Expected, wishes: Wishes, *, pauses: bool) -> None:
        self._batch = batch
        self._families = families
        self._expected = expected
        self._wishes = wishes
        self._pauses = pauses
        self._responses = Responses.of(batch)

    def all(self) -> Iterator[Candidates]:
        """Every kind in every scope, the narrow ones first."""
        yield self.calls()
        yield self.responses()
        yield self.contexts()
        yield from self.merges()
        yield from self.needless()
        yield from self.responses_of_tools()
        yield from self.everywhere()

    def calls(self) -> Candidates:
        """Single calls left out."""
        batch, responses = self._batch, self._responses
        rows = np.unique(responses.row)
        rows = rows[batch.parent[rows] >= 0]
        rows = rows[batch.trajectory[batch.parent[rows]] == batch.trajectory[rows]]

        def make(number: int) -> AgentChange:
            row = int(rows[number])
            tool = self._tool(row)
            what = f"the {tool} call" if tool else "the call"
            return DropCalls(f"drop {what}", *self._where(row), tool, responses.assumption, rows=(row,))

        return Candidates("call", self._expected.call(batch, rows, pauses=self._pauses), make)

    def responses(self) -> Candidates:
        """Single turns' responses truncated."""
        most = self._wishes.truncate_to
        rows, cut = self._responses.beyond(most)

        def make(number: int) -> AgentChange:
            row = int(rows[number])
            tool, assumption = self._tool(row), self._responses.assumption
            name = f"cut the {tool + ' ' if tool else ''}response to {most:,} tokens"
            return Truncate(name, *self._where(row), tool, assumption, tokens=most, rows=(row,))

        return Candidates("call", self._expected.response(self._batch, rows, cut), make)

    def responses_of_tools(self) -> Iterator[Candidates]:
        """All responses of a tool truncated, and all of all tools."""
        batch, responses, most = self._batch, self._responses, self._wishes.truncate_to
        tools = np.unique(responses.tool[responses.tool >= 0])
        cuts = [responses.beyond(most, responses.tool == tool) for tool in tools.tolist()]
        expected = np.array([self._expected.response(batch, *cut).sum() for cut in cuts])

        def make(number: int) -> AgentChange:
            tool = int(tools[number])
            name = batch.tool_names[tool]
            text = f"cut all {name} responses to {most:,} tokens"
            return Truncate(text, None, None, name, responses.assumption, tokens=most, of=tool)

        yield Candidates("tool", expected, make)
        whole = self._expected.response(batch, *responses.beyond(most)).sum()
        if len(tools) != 1:
            text = f"cut all tool responses to {most:,} tokens"
            yield Candidates(
                "run",
                np.array([whole]),
                lambda number: Truncate(text, None, None, None, responses.assumption, tokens=most),
            )

    def contexts(self) -> Candidates:
        """Contexts compacted once, at the turn of each trajectory where it should save most."""
        batch, summary = self._batch, self._wishes.summary_tokens
        rows = compactable(batch, summary)
        kept = heads(batch)[rows] + summary
        saved = self._expected.summary(batch, rows, kept)
        order = np.lexsort((-saved, batch.trajectory[rows]))
        best = order[np.flatnonzero(np.diff(batch.trajectory[rows][order], prepend=-1))]

        def make(number: int) -> AgentChange:
            row = int(rows[best[number]])
            text = f"compact the context to {summary:,} tokens"
            return Compact(
                text, *self._where(row), None, _COMPACTED.format(summary), rows=(row,), summary_tokens=summary
            )

        return Candidates("call", saved[best], make)

    def merges(self) -> Iterator[Candidates]:
        """Neighbouring calls made at once, each run of them and all."""
        chains = [*self._wishes.chains, *self._assumed_chains()]
        if not chains:
            return
        expected = np.array([self._merged_s(chain) for chain in chains])
        assumption = "no call needs what the ones before it brought" + (
            "" if self._wishes.parallel else ": no word of its arguments first appears there"
        )

        def make(number: int) -> AgentChange:
            chain = chains[number]
            tools = list(dict.fromkeys(filter(None, (self._called(row) for row in chain))))
            of = " and ".join(tools) if len(tools) <= 2 else "tool"
            text = f"make {len(chain)} {of + ' ' if of else ''}calls at once"
            return Merge(
                text, *self._where(chain[0]), tools[0] if len(tools) == 1 else None, assumption, chains=(chain,)
            )

        yield Candidates("call", expected, make)
        if len(chains) > 1:
            text = f"make calls at once that need not wait ({len(chains):,} runs of them)"
            yield Candidates(
                "run",
                np.array([expected.sum()]),
                lambda number: Merge(text, None, None, None, assumption, chains=tuple(chains)),
            )

    def needless(self) -> Iterator[Candidates]:
        """What detectors found needless: all repeated calls left out, all unused responses cut short."""
        batch, wishes = self._batch, self._wishes
        repeated = np.array(wishes.repeated, np.int64)
        if repeated.size:
            name = f"drop calls that were made before ({repeated.size:,})"
            expected = self._expected.call(batch, repeated, pauses=self._pauses).sum()
            yield Candidates(
                "run",
                np.array([expected]),
                lambda number: DropCalls(name, assumption=_REPEATED, rows=wishes.repeated),
            )
        unused = np.array(wishes.unused, np.int64)
        rows, cut = self._responses.beyond(UNUSED_TO, np.isin(self._responses.row, unused))
        if rows.size:
            text = f"cut responses that nothing refers to, to {UNUSED_TO:,} tokens ({rows.size:,})"
            yield Candidates(
                "run",
                np.array([self._expected.response(batch, rows, cut).sum()]),
                lambda number: Truncate(text, assumption=_UNUSED, tokens=UNUSED_TO, rows=tuple(rows.tolist())),
            )

    def everywhere(self) -> Iterator[Candidates]:
        """Changes of the whole run: shorter tool definitions, contexts compacted whenever they are long."""
        batch, wishes = self._batch, self._wishes
        rows, _, tokens = definitions(batch)
        if rows.size:
            saved = self._expected.response(batch, rows, np.floor(tokens * wishes.tools_share)).sum()
            text = f"say tool definitions in {100 * (1 - wishes.tools_share):.0f} % of the tokens"
            yield Candidates(
                "run", np.array([saved]), lambda number: ShortenTools(text, None, None, None, None, wishes.tools_share)
            )
        found = {at: rows_beyond(batch, at, self._families.depth, wishes.summary_tokens) for at in _COMPACT_AT}
        found = {at: rows for at, rows in found.items() if rows.size}
        ladder = sorted(found)

        def make(number: int) -> AgentChange:
            at = ladder[number]
            text = f"compact contexts at {at:,} tokens ({len(found[at]):,} times)"
            summary = wishes.summary_tokens
            return Compact(
                text,
                None,
                None,
                None,
                _COMPACTED.format(summary),
                rows=tuple(found[at].tolist()),
                summary_tokens=summary,
            )

        head = heads(batch) + wishes.summary_tokens
        saved = [float(self._expected.summary(batch, found[at], head[found[at]]).sum()) for at in ladder]
        yield Candidates("run", np.array(saved), make)

    def _assumed_chains(self) -> list[tuple[int, ...]]:
        """Runs of neighbouring calls of one tool whose calls are taken not to need each other."""
        batch, parallel = self._batch, self._wishes.parallel
        if batch.tool is None or not parallel:
            return []
        links = Links(batch)
        chosen = np.isin(batch.tool, [number for number, name in enumerate(batch.tool_names) if name in parallel])
        joined = np.zeros(batch.turns, bool)  # a turn whose call belongs to the same run as its parent's
        rows = np.flatnonzero(links.simple & (links.next >= 0) & chosen)
        joined[rows] = batch.tool[links.next[rows]] == batch.tool[rows]
        starts = np.flatnonzero((links.next >= 0) & ~joined & joined[links.next])
        chains = []
        for row in starts.tolist():
            chain = [row]
            while links.next[chain[-1]] >= 0 and joined[links.next[chain[-1]]]:
                chain.append(int(links.next[chain[-1]]))
            chains.append(tuple(chain))
        return chains

    def _merged_s(self, chain: Sequence[int]) -> float:
        rest = list(chain[1:])
        saved = float(self._expected.prefill_s[rest].sum())
        if self._pauses:
            pauses = self._expected.pause_s[rest]
            saved += float(pauses.sum())
        return saved

    def _where(self, row: int) -> tuple[str, int]:
        """The trajectory's name, and the turn's number in it."""
        return str(self._batch.ids[self._batch.trajectory[row]]), turn_of(self._batch, row)

    def _tool(self, row: int) -> str | None:
        """The tool whose response a row reads, the longest of several."""
        batch = self._batch
        if batch.tool is not None and batch.tool[row] >= 0:
            return str(batch.tool_names[batch.tool[row]])
        at = np.flatnonzero((self._responses.row == row) & (self._responses.tool >= 0))
        return str(batch.tool_names[self._responses.tool[at[0]]]) if at.size else None

    def _called(self, row: int) -> str | None:
        """The tool that a turn called: whose response the next one reads."""
        readers = np.flatnonzero(self._batch.parent == row)
        return self._tool(int(readers[0])) if readers.size else None
