"""The Cython step: shared prefixes, token masks and array splitting against plain Python."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim._ingest import ArraySplitter, PrefixIndex, common_prefix
from kvsim.errors import InputError
from kvsim.logs.masks import from_token_masks

SEQUENCE = st.lists(st.integers(-1, 2), max_size=8)


@given(st.lists(SEQUENCE, max_size=30))
def test_prefix_index_names_the_latest_of_the_longest(sequences: list[list[int]]) -> None:
    index = PrefixIndex()
    for number, sequence in enumerate(sequences):
        expected = (-1, 0)
        for owner, other in enumerate(sequences[:number]):
            shared = common_prefix(sequence, other)
            if shared and shared >= expected[1]:
                expected = (owner, shared)
        assert index.longest(sequence) == expected
        index.add(sequence, number)


@given(st.recursive(st.none() | st.integers() | st.text('a,[]{}"\\ ', max_size=4), st.lists), st.integers(1, 7))
def test_array_splitter_finds_the_elements(value: object, size: int) -> None:
    values = value if isinstance(value, list) else [value]
    text = json.dumps(values, indent=1).encode()
    splitter = ArraySplitter()
    found = [part for at in range(0, len(text), size) for part in splitter.feed(text[at : at + size])]
    assert splitter.state == "after"
    assert [json.loads(data) for _, data in found] == values
    for line, data in found:
        first = data.decode().strip().split("\n")[0]
        assert text.decode().split("\n")[line - 1].strip().startswith(first.rstrip(","))


MASKS = st.lists(
    st.tuples(st.integers(1, 20), st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)


@given(MASKS, st.integers(0, 3))
def test_token_masks(rollouts: list[tuple[int, list[tuple[int, int]]]], padding: int) -> None:
    masks, expected = [], []
    for prompt, turns in rollouts:
        mask = [-1] * padding + [0] * prompt
        length, kept = prompt, 0
        for number, (output, read) in enumerate(turns):
            mask += [1] * output + [0] * read
            if number and not turns[number - 1][1]:  # nothing read in between: one stretch
                previous = expected.pop()
                expected.append((previous[0], previous[1] + output, previous[2]))
            else:
                expected.append((length, output, kept))
            length += output
            kept = length
            length += read
        masks.append(np.array(mask + [-1] * padding, np.int8))
    ids = [np.arange(len(mask)) + 100 * number for number, mask in enumerate(masks)]
    batch = from_token_masks(ids, masks)
    columns = zip(batch.prompt_tokens, batch.output_tokens, batch.kept_tokens, strict=True)
    assert [tuple(map(int, row)) for row in columns] == expected
    assert len(batch) == len(rollouts)
    assert batch.prefix is None


def test_rollouts_of_one_prompt_share_it() -> None:
    mask = np.array([[0, 0, 0, 1, 1, 0, 1]] * 3, np.int8)
    ids = np.array([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 9, 9, 9, 9], [1, 2, 4, 4, 5, 6, 7]])
    batch = from_token_masks(ids, mask)
    assert batch.prefix is not None
    assert batch.prefix.tolist() == [0, -1, 0, -1, -1, -1]
    assert batch.kept_tokens.tolist() == [3, 5, 3, 5, 0, 5]
    assert batch.shared_tokens is not None
    assert batch.shared_tokens.tolist() == [0, 0, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("ids", "masks", "problem"),
    [
        ([[1, 2]], [[0, 0]], "no token written"),
        ([[1, 2]], [[1, 0]], "no prompt"),
        ([[1, 2]], [[0, 1, 1]], "shapes"),
        ([[1]], [], "1 rollouts"),
    ],
)
def test_unusable_masks(ids: list[list[int]], masks: list[list[int]], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        from_token_masks([np.array(row) for row in ids], [np.array(row, np.int8) for row in masks])


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ([0.0, 0.9, 1.0], "float"),
        ([0, 1, 7], "value 7"),
        ([0, 1, -2], "value -2"),
        ([0, 1, 257], "value 257"),
        ([0, -1, 1], "padding between"),
        ([-1, 0, 1, -1, 1, -1], "padding between"),
    ],
)
def test_masks_of_other_values(mask: list[float], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        from_token_masks([np.arange(len(mask))], [np.array(mask)])
    assert caught.value.field == "masks"


def test_masks_of_other_types() -> None:
    masks = [np.array([-1, 0, 1, -1]), np.array([False, False, True, True])]
    batch = from_token_masks([np.arange(4)] * 2, masks)
    assert batch.output_tokens.tolist() == [1, 2]
    assert batch.prompt_tokens.tolist() == [1, 2]
