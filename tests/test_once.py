"""Functions whose results are kept."""

from __future__ import annotations

import pytest

from kvsim._once import once


def test_equal_arguments_are_answered_once_and_such_without_a_hash_anew():
    calls = []

    @once(maxsize=2)
    def total(values, start=0):
        calls.append(values)
        return sum(values, start)

    assert total((1, 2)) == total((1, 2)) == 3
    assert total((1, 2), start=4) == total((1, 2), start=4) == 7
    assert len(calls) == 2
    assert total([1, 2]) == total(values=[1, 2]) == 3
    assert len(calls) == 4


def test_errors_are_those_of_the_function_alone():
    @once(maxsize=2)
    def failing(given):
        raise {"type": TypeError, "value": ValueError}[given[0]](given[0])

    for given, error in ((["value"], ValueError), (["type"], TypeError), (("value",), ValueError)):
        with pytest.raises(error) as caught:
            failing(given)
        assert caught.value.__context__ is None
    with pytest.raises(TypeError, match="type"):
        failing(("type",))
