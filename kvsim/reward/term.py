"""``CostTerm``: what a rollout costs on a real GPU, as a number that a reward can use."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_TOTAL_NS, sealed
from kvsim.backends import get
from kvsim.calibration import Calibration, load_calibration
from kvsim.cores import threads_of
from kvsim.device import DeviceBatch, require_device
from kvsim.errors import InputError
from kvsim.estimation import Estimate
from kvsim.pricing import require_price, resolve_pricing
from kvsim.reward.assembly import ToolNames, Turns, assemble
from kvsim.reward.chats import turns_of_messages
from kvsim.reward.costs import Costs
from kvsim.reward.durations import Duration, Durations
from kvsim.reward.limits import most_tokens, within
from kvsim.reward.rollouts import Rollouts
from kvsim.reward.token_ids import turns_of_masks
from kvsim.reward.turn_counts import turns_of_counts
from kvsim.reward.units import Floats, unit_of
from kvsim.trajectory import Batch, Ints

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from kvsim.architecture import Architecture
    from kvsim.engine import EngineConfig
    from kvsim.hardware import Gpu
    from kvsim.load import Load

#: Kinds of assumptions, for :attr:`Costs.assumptions`.
ASSUMED_PAUSE = "tool pause nobody measured: the declared duration"
UNKNOWN_PAUSE = "tool pause nobody measured, no duration declared: 0 seconds"
CUT = "turn longer than the engine holds: priced as the longest it does"


class CostTerm:
    """Prices rollouts in one unit.

        term = kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="gpu_s", durations={"search": 1.2, "*": 0.5})
        reward = correct - 0.1 * term(batch)

    model: hub name, or path of a config.json. gpu: id such as ``"h100-sxm"``; by default that of ``calibration``.
    unit: ``latency_s`` (tool pauses included), ``model_s``, ``gpu_s``, ``kv_byte_s``, ``usd``, ``joules`` (an upper
        bound), as in :class:`kvsim.Estimate`, or ``pte`` in one ``reading`` of :func:`kvsim.pte`.
    engine, load, calibration, usd_per_hour, backend, threads: as in :func:`kvsim.estimate`. More threads pay in calls
        of 65,536 turns and more.
    durations: seconds that tools take where nobody measured it, by name (``"*"``: any other): a number, observed
        seconds, or ``{"median": s, "p90": s}`` of a log-normal distribution; the mean counts. Without, 0.
    tokenizer: counts tokens of messages that come without counts (see :func:`kvsim.tokens.token_counter`).

    A term has no state that a call changes, so that threads can share it; it can be pickled; equal rollouts get
    equal bits, whatever else is in the call. Pricing itself runs without the GIL. Raises
    :class:`kvsim.errors.KvsimError` as ``estimate`` does, and for ``usd`` where the GPU has no price.
    """

    def __init__(
        self,
        model: str | Architecture,
        gpu: str | Gpu | None = None,
        *,
        unit: str = "gpu_s",
        reading: str = "paper",
        engine: EngineConfig | None = None,
        load: Load | None = None,
        calibration: str | Path | Calibration | None = None,
        usd_per_hour: float | None = None,
        durations: Mapping[str, Duration] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        threads: int | str = 1,
    ) -> None:
        if calibration is not None and not isinstance(calibration, Calibration):
            calibration = load_calibration(calibration)
        if gpu is None:
            if calibration is None:
                raise InputError("is needed", field="gpu", remedy="Give a GPU, or a calibration of one")
            gpu = calibration.gpu
        require_price(usd_per_hour)
        self.pricing = resolve_pricing(model, gpu, engine, load, calibration)
        self._asked = backend
        self.backend = get(backend).name
        self.threads = threads_of(threads)
        self.usd_per_hour = usd_per_hour
        self.durations = None if durations is None else Durations(durations)
        self.tokenizer = tokenizer
        self._unit = unit_of(unit, reading, self.pricing, usd_per_hour, model)
        self._most_tokens = most_tokens(self.pricing)

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return self._unit.name

    @overload
    def __call__(self, rollouts: DeviceBatch) -> Any: ...

    @overload
    def __call__(self, rollouts: Any, **facts: Any) -> Floats: ...

    def __call__(self, rollouts: Any, **facts: Any) -> Any:
        """What each rollout costs by itself, float64 of shape (rollouts,), finite; arguments as in :meth:`price`.

        Of a :class:`kvsim.DeviceBatch` the array is on the device (``torch.from_dlpack`` takes it over); its pauses are
        taken as they are.
        """
        if isinstance(rollouts, DeviceBatch):
            return self._on_device(rollouts, facts)
        return self.price(rollouts, **facts).trajectories

    def price(
        self,
        rollouts: Any,
        *,
        masks: Any = None,
        token_counts: Sequence[Sequence[int]] | None = None,
        prompt_tokens: Sequence[int] | npt.ArrayLike | None = None,
        tool_s: Sequence[Sequence[float | None]] | None = None,
        tools: Sequence[Sequence[ToolNames]] | None = None,
        steps: Sequence[Sequence[Hashable]] | None = None,
        groups: Sequence[Hashable] | npt.ArrayLike | None = None,
    ) -> Costs:
        """Price rollouts: each by itself, each of its turns and tool calls, and what could have been saved.

        rollouts: a :class:`kvsim.Batch` (then no other argument applies), or one item a rollout:
            a list of turns, each (prompt tokens, output tokens); a list of chat messages; or, with ``masks``, token
            ids: a 2-D array, or a 1-D array (or list) each.
        masks: of the shape of the ids, integers: 1 written by the model, 0 read by it, -1 padding at either end.
        token_counts: for each list of messages, how many tokens each message takes in the context.
        prompt_tokens: one a rollout: tokens before the first that is given here.
        tool_s: for each rollout, the seconds that tools took after each of its turns; None or NaN where unknown.
            A list may be shorter than the turns.
        tools: for each rollout, the tools that answered after each turn: a name, a list of names, or None. Messages
            name their own.
        steps: for each rollout, a name for each of its turns: turns of one name are one turn of a tree.
        groups: one value a rollout: rollouts of one value begin with one prompt, prefilled once.

        Where several tools answer after one turn, ``tool_s`` is the time until the last did.
        """
        apart = {"masks": masks, "token_counts": token_counts, "prompt_tokens": prompt_tokens}
        facts = {"tool_s": tool_s, "tools": tools, "steps": steps, "groups": groups}
        given = self._rollouts(rollouts, apart, facts)
        assumptions = dict(given.assumptions)
        given = self._with_pauses(given, assumptions)
        batch, cut = within(given.batch, self._most_tokens)
        if cut:
            assumptions[CUT] = cut
        estimate = Estimate(batch, self.pricing, get(self.backend), self.usd_per_hour, threads=self.threads)
        return Costs(replace(given, batch=batch), estimate, self._unit, assumptions)

    def _on_device(self, batch: DeviceBatch, facts: dict[str, Any]) -> Any:
        require_device(self._asked)
        if facts:
            problem, remedy = "is given beside a batch", "A batch says all of it itself"
            raise InputError(problem, field=next(iter(facts)), remedy=remedy)
        if not batch.apart:
            raise InputError(
                "rollouts that were forked from each other are not priced on a device",
                field="parent",
                remedy="Give their columns in host memory to kvsim.Batch",
            )
        return self._unit.on_device(batch.within(self._most_tokens), self.pricing, self.usd_per_hour)

    def _rollouts(self, given: Any, apart: dict[str, Any], facts: dict[str, Any]) -> Rollouts:
        if not isinstance(given, (Batch, Rollouts)):
            turns, equal_prompts = self._turns(given, **apart)
            return assemble(turns, **facts, equal_prompts=equal_prompts)
        if said := [name for name, fact in {**apart, **facts}.items() if fact is not None]:
            raise InputError("is given beside a batch", field=said[0], remedy="A batch says all of it itself")
        if isinstance(given, Rollouts):
            return given
        unmeasured = (given.parent >= 0) & (given.after >= 0) & (given.pause_ns == 0)
        return replace(Rollouts.from_batch(given), missing=unmeasured if unmeasured.any() else None)

    def _turns(
        self, given: Any, masks: Any, token_counts: Any, prompt_tokens: Any
    ) -> tuple[Turns, Callable[[], Ints] | None]:
        """The turns of one of the three kinds of rollouts, and how to number them by their prompts."""
        before = None if prompt_tokens is None else _one_each("prompt_tokens", prompt_tokens, len(given))
        if masks is not None:
            return turns_of_masks(given, masks, before)
        if token_counts is not None or _are_messages(given):
            return turns_of_messages(given, token_counts, before, self.tokenizer), None
        return turns_of_counts(given, before), None

    def _with_pauses(self, rollouts: Rollouts, assumptions: dict[str, int]) -> Rollouts:
        """The rollouts with declared durations where nobody measured any."""
        if rollouts.missing is None:
            return rollouts
        rows = np.flatnonzero(rollouts.missing)
        if self.durations is None:
            assumptions[UNKNOWN_PAUSE] = len(rows)
            return rollouts
        found = self.durations.pauses(rollouts.batch, rows)
        known = found >= 0
        if declared := int(np.count_nonzero(known)):
            assumptions[ASSUMED_PAUSE] = declared
        if declared < len(rows):
            assumptions[UNKNOWN_PAUSE] = len(rows) - declared
        pause_ns = rollouts.batch.pause_ns.copy()
        pause_ns[rows[known]] = found[known]
        if float(pause_ns.sum(dtype=float)) > MAX_TOTAL_NS:
            problem = "all pauses together exceed 2^61 ns, so that timestamps would overflow"
            raise InputError(problem, field="durations", remedy="Give durations in seconds, or fewer rollouts at once")
        return replace(rollouts, batch=sealed(replace(rollouts.batch, pause_ns=pause_ns)))


def _are_messages(given: Any) -> bool:
    """Whether the first turn or message there is, is a message."""
    return next((isinstance(items[0], Mapping) for items in given if len(items)), False)


def _one_each(name: str, values: Any, rollouts: int) -> Ints:
    """One whole number a rollout, none below 0."""
    numbers = np.asarray(values) if rollouts else np.zeros(0, np.int64)
    if numbers.shape != (rollouts,) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        problem = f"{numbers.dtype} of shape {numbers.shape} is no count for each of {rollouts} rollouts"
        raise InputError(problem, field=name, remedy="Give one whole number a rollout, none below 0")
    return numbers.astype(np.int64)
