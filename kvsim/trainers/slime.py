"""slime: turns from a ``Sample``.

As ``--custom-rm-path`` names it (with ``--group-rm``: the same over a list of samples):

    async def custom_rm(args, sample, **kwargs):
        return correct(sample) - WEIGHT * float(price(term, [turns(sample)]).trajectories[0])
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvsim.errors import InputError
from kvsim.logs.slime import Sample, turns_of_sample
from kvsim.logs.turns import Turn


def turns(sample: Any) -> list[Turn]:
    """The turns of a ``slime.utils.types.Sample``, or of its ``to_dict()``.

    ``tokens`` and ``response_length`` say how long prompt and response are, ``loss_mask`` what of the response the
    model wrote (all of it where there is none); ``non_generation_time`` is the sum of the pauses, shared equally.
    """
    try:
        return turns_of_sample(msgspec.convert(sample, Sample, from_attributes=True))
    except msgspec.ValidationError as error:
        raise InputError(str(error), field="sample", remedy="Give a Sample of slime") from None
