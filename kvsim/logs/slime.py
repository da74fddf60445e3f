"""Rollouts that slime saves with ``--save-debug-rollout-data``: ``{"rollout_id", "samples": [...]}`` of ``torch.save``.

A sample has the ids of all its ``tokens``, of which the last ``response_length`` are the response, and a ``loss_mask``
over these: 1 where the model wrote, 0 where it read. ``prefix_cache_info`` sums over the calls of a sample, and
``non_generation_time`` over its pauses, which it is shared among equally.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kvsim.errors import InputError
from kvsim.logs import torch_archive
from kvsim.logs.reading import REMEDY, Format, Reading
from kvsim.logs.source import Source
from kvsim.logs.stretches import turns_of_mask
from kvsim.logs.turns import add_turns


class Sample(msgspec.Struct):
    """What of slime's ``Sample`` tells its turns."""

    tokens: list[int] = []
    response_length: Annotated[int, Meta(ge=0)] = 0
    loss_mask: list[int] | None = None
    non_generation_time: Annotated[float, Meta(ge=0, le=1e8)] = 0.0
    index: int | None = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def read(self, source: Source) -> None:
        with self._reading.attempt():
            held = torch_archive.load(source)
            samples = held.get("samples") if isinstance(held, dict) else None
            if not isinstance(samples, list):
                raise InputError("is missing", file=source.name, field="samples", remedy=REMEDY)
            for number, given in enumerate(samples):
                with self._reading.attempt():
                    self._sample(given, number, source)

    def _sample(self, given: Any, number: int, source: Source) -> None:
        try:
            sample = msgspec.convert(given, Sample)
        except msgspec.ValidationError as error:
            raise InputError(str(error), file=source.name, field=f"samples[{number}]", remedy=REMEDY) from None
        id = f"{source.stem}:{sample.index if sample.index is not None else number}"
        add_turns(self._reading, turns_of_sample(sample), id=id, source=source, line=None)

    def finish(self) -> None:
        pass


def turns_of_sample(sample: Sample) -> list[Any]:
    """The turns of a sample, its time outside generation shared among the pauses."""
    prompt = len(sample.tokens) - sample.response_length
    mask = sample.loss_mask if sample.loss_mask is not None else [1] * sample.response_length
    if prompt < 0 or len(mask) != sample.response_length:
        raise InputError(
            f"{len(sample.tokens)} tokens and a mask of {len(mask)} for a response of {sample.response_length}",
            field="response_length",
            remedy=REMEDY,
        )
    return turns_of_mask(prompt, mask, total_pause_s=sample.non_generation_time)


FORMAT = Format(
    name="slime",
    looks_for="rollouts of slime, an archive of torch.save with 'samples'",
    matches=lambda paths: "torch archive" in paths,
    reader=_Reader,
)
