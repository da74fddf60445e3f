# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False
"""The fast step from log objects to integers: shared prefixes, token masks, and JSON split without being parsed."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int8_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

import numpy as np


# ---------------------------------------------------------------------------------------------- shared prefixes


def common_prefix(list first not None, list second not None):
    """How many leading integers two lists share."""
    cdef Py_ssize_t i, shorter = min(len(first), len(second))
    for i in range(shorter):
        if <int64_t> first[i] != <int64_t> second[i]:
            return i
    return shorter


cdef struct Node:
    size_t start  # of the node's stretch in the pool of labels
    size_t length
    int64_t latest  # the last owner whose sequence covers the stretch


cdef class PrefixIndex:
    """Sequences of integers (block hashes, message hashes) in a radix tree: who shares the longest prefix with this?

    Only the part of a sequence that nobody had before is stored, so that a session costs the memory of its distinct
    blocks. Adding costs one comparison a shared block and one hash look-up a fork.
    """

    cdef vector[int64_t] _labels
    cdef vector[Node] _nodes
    cdef unordered_map[uint64_t, size_t] _children  # (node, number of the stretch's first label) -> node
    cdef unordered_map[int64_t, uint64_t] _numbers  # of labels that begin a stretch

    def __cinit__(self):
        self._nodes.push_back(Node(0, 0, -1))

    def longest(self, list sequence not None):
        """(owner, length) of the longest prefix shared with a sequence in the index; (-1, 0) where none is.

        Where several share as much, the latest is named.
        """
        cdef vector[int64_t] values = _vector(sequence)
        cdef size_t depth = 0, node = 0, below, matched
        while depth < values.size():
            below = self._child(node, values[depth])
            if below == 0:
                break
            node = below
            matched = self._match(node, values, depth)
            depth += matched
            if matched < self._nodes[node].length:
                break
        if depth == 0:
            return -1, 0
        return self._nodes[node].latest, depth

    def add(self, list sequence not None, int64_t owner):
        """Enter a sequence under its owner's number."""
        cdef vector[int64_t] values = _vector(sequence)
        cdef size_t depth = 0, node = 0, below, matched
        while depth < values.size():
            below = self._child(node, values[depth])
            if below == 0:
                self._append(node, values, depth, owner)
                return
            matched = self._match(below, values, depth)
            if matched < self._nodes[below].length:
                below = self._split(node, below, matched)
            self._nodes[below].latest = owner
            depth += matched
            node = below

    cdef size_t _child(self, size_t node, int64_t label) noexcept:
        """The node below whose stretch begins with the label; 0, the root, for none."""
        cdef unordered_map[int64_t, uint64_t].iterator number = self._numbers.find(label)
        if number == self._numbers.end():
            return 0
        cdef uint64_t key = (<uint64_t> node << 32) | self._numbers[label]
        return self._children[key] if self._children.count(key) else 0

    cdef void _link(self, size_t node, size_t below) except *:
        cdef int64_t label = self._labels[self._nodes[below].start]
        cdef uint64_t fresh = self._numbers.size()
        if not self._numbers.count(label):
            self._numbers[label] = fresh
        self._children[(<uint64_t> node << 32) | self._numbers[label]] = below

    cdef size_t _match(self, size_t node, vector[int64_t]& values, size_t depth) noexcept:
        cdef size_t i = 0, left = values.size() - depth, end = self._nodes[node].length
        cdef const int64_t* stretch = self._labels.data() + self._nodes[node].start
        if left < end:
            end = left
        while i < end and stretch[i] == values[depth + i]:
            i += 1
        return i

    cdef void _append(self, size_t node, vector[int64_t]& values, size_t depth, int64_t owner) except *:
        cdef size_t start = self._labels.size(), i
        for i in range(depth, values.size()):
            self._labels.push_back(values[i])
        self._nodes.push_back(Node(start, values.size() - depth, owner))
        self._link(node, self._nodes.size() - 1)

    cdef size_t _split(self, size_t above, size_t node, size_t matched) except *:
        """Cut a node's stretch in two and return the new upper node; the node itself keeps its children."""
        cdef Node* old = &self._nodes[node]
        cdef Node upper = Node(old.start, matched, old.latest)
        old.start += matched
        old.length -= matched
        self._nodes.push_back(upper)
        cdef size_t between = self._nodes.size() - 1
        self._link(above, between)
        self._link(between, node)
        return between


cdef vector[int64_t] _vector(list sequence) except *:
    cdef vector[int64_t] values
    cdef Py_ssize_t i
    values.resize(len(sequence))
    for i in range(len(sequence)):
        values[i] = <int64_t> sequence[i]
    return values


# ------------------------------------------------------------------------------------- rollouts as tokens and masks


def from_masks(list ids not None, list masks not None):
    """Turns of rollouts given as token ids with masks; returns (rollout, prompt, output, kept, prompt_group).

    ``ids[i]`` and ``masks[i]`` are contiguous arrays of one length: integers, and int8 with 1 = written by the model,
    0 = read by it, -1 = padding. Every stretch of 1s is a turn; its prompt is everything before it, of which all but
    what was read since the previous stretch is kept. ``prompt_group`` numbers distinct first prompts (by rollout
    number), -1 where a rollout has no turn. Tokens read after the last stretch belong to no turn.
    """
    cdef Py_ssize_t count = len(masks), i, j, length, first, start
    cdef int64_t prompt, run, previous
    cdef vector[int64_t] rollouts, prompts, outputs, kept
    cdef Py_buffer mask, tokens
    cdef const int8_t* m
    cdef uint64_t h
    cdef dict groups = {}
    groups_of = np.full(count, -1, np.int64)
    cdef int64_t[::1] group = groups_of
    if len(ids) != count:
        raise ValueError(f"{len(ids)} arrays of ids for {count} masks")
    for i in range(count):
        PyObject_GetBuffer(masks[i], &mask, PyBUF_SIMPLE)
        try:
            length = mask.len
            m = <const int8_t*> mask.buf
            first = _stretch(m, 0, length) if length and m[0] < 0 else 0
            j = first
            prompt = previous = 0
            start = -1
            while j < length:
                run = j
                j = _stretch(m, j, length)
                if m[run] == 0:
                    prompt += j - run
                elif m[run] > 0:
                    if start < 0:
                        start = run
                    rollouts.push_back(i)
                    prompts.push_back(prompt)
                    outputs.push_back(j - run)
                    kept.push_back(previous)
                    prompt += j - run
                    previous = prompt
            if start < 0:
                continue
        finally:
            PyBuffer_Release(&mask)
        PyObject_GetBuffer(ids[i], &tokens, PyBUF_SIMPLE)
        try:
            if length == 0 or tokens.len % length:
                raise ValueError(f"rollout {i}: {tokens.len} bytes of ids for {length} mask values")
            h = _hash(<const char*> tokens.buf + first * (tokens.len // length), (start - first) * (tokens.len // length))
        finally:
            PyBuffer_Release(&tokens)
        group[i] = groups.setdefault((h, start - first), i)
    return _array(rollouts), _array(prompts), _array(outputs), _array(kept), groups_of


cdef Py_ssize_t _stretch(const int8_t* mask, Py_ssize_t at, Py_ssize_t length) noexcept:
    """Where the stretch of one value that begins at ``at`` ends, looking at eight bytes at a time."""
    cdef uint64_t same = <uint64_t> <uint8_t> mask[at] * 0x0101010101010101ULL, word
    cdef int8_t value = mask[at]
    while at + 8 <= length:
        memcpy(&word, mask + at, 8)
        if word != same:
            break
        at += 8
    while at < length and mask[at] == value:
        at += 1
    return at


cdef uint64_t _hash(const char* data, Py_ssize_t length) noexcept:
    """A 64-bit hash of bytes, eight at a time: prompts of one batch collide once in 2^64 / pairs."""
    cdef uint64_t h = 0x9E3779B97F4A7C15ULL ^ <uint64_t> length, word
    cdef Py_ssize_t i = 0
    while i + 8 <= length:
        memcpy(&word, data + i, 8)
        h = (h ^ word) * 0xBF58476D1CE4E5B9ULL
        h ^= h >> 29
        i += 8
    word = 0
    memcpy(&word, data + i, length - i)
    h = (h ^ word) * 0x94D049BB133111EBULL
    return h ^ (h >> 31)


cdef _array(vector[int64_t]& values):
    result = np.empty(values.size(), np.int64)
    cdef int64_t[::1] view = result
    if values.size():
        memcpy(&view[0], values.data(), values.size() * sizeof(int64_t))
    return result


# ------------------------------------------------------------------------------------------- JSON arrays in pieces


cdef class ArraySplitter:
    """Cuts one big JSON array into its elements as the bytes arrive, knowing only brackets and strings.

    Memory: the element at hand. ``feed`` returns the elements completed by a chunk as (line, bytes); after the last
    chunk, ``state`` says how the text ended: "before" (nothing but white space came), "inside" (the array is not
    closed), "after" (closed), "garbage" (text follows the array, or it does not begin with a bracket).
    """

    cdef string _element
    cdef int _depth
    cdef bint _in_string, _escaped, _closed, _garbage, _blank
    cdef int64_t _line, _element_line
    cdef readonly int64_t garbage_line

    def __cinit__(self):
        self._line = 1
        self._blank = True

    @property
    def state(self):
        """How the text stands so far."""
        if self._garbage:
            return "garbage"
        if self._closed:
            return "after"
        return "inside" if self._depth else "before"

    @property
    def line(self):
        """The line the text has reached."""
        return self._line

    def feed(self, bytes chunk not None):
        """The elements that end in this chunk, as a list of (line of their first character, bytes)."""
        cdef const char* text = chunk
        cdef Py_ssize_t i, start = 0, length = len(chunk)
        cdef char c
        cdef list found = []
        if self._garbage:
            return found
        for i in range(length):
            c = text[i]
            if c == b"\n":
                self._line += 1
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif c == b"\\":
                    self._escaped = True
                elif c == b'"':
                    self._in_string = False
                continue
            if c == b" " or c == b"\n" or c == b"\r" or c == b"\t":
                continue
            if self._closed or (self._depth == 0 and c != b"["):
                self._garbage = True
                self.garbage_line = self._line
                return found
            if self._depth == 0:
                self._depth = 1
                start = i + 1
                continue
            if self._depth == 1 and (c == b"," or c == b"]"):
                self._element.append(text + start, i - start)
                if not (c == b"]" and self._blank and not self._element_line):
                    found.append((self._element_line or self._line, <bytes> self._element))
                self._element.clear()
                self._element_line = 0
                self._blank = False
                start = i + 1
                if c == b"]":
                    self._depth = 0
                    self._closed = True
                continue
            if self._element_line == 0:
                self._element_line = self._line
            if c == b'"':
                self._in_string = True
            elif c == b"[" or c == b"{":
                self._depth += 1
            elif c == b"]" or c == b"}":
                self._depth -= 1
        if self._depth:
            self._element.append(text + start, length - start)
        return found
