# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False
"""The fast step from log objects to integers: shared prefixes, token masks, messages, JSON split but not parsed."""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
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


def mask_turns(ids not None, masks not None, bint empty):
    """Turns of rollouts given as masks; returns (turns of each rollout, prompt, output, begin, length, faulty).

    ``masks`` is a list of contiguous int8 or bool arrays, or one such array of two dimensions: 1 = written by the
    model, 0 = read by it, -1 = padding at either end. Every stretch of 1s is a turn; its prompt is everything before
    it. Tokens read after the last stretch belong to no turn. With ``empty`` a rollout without a stretch has one turn,
    which reads all and writes nothing. ``begin`` and ``length`` (rollouts,) say where the first prompt stands.
    ``faulty`` is the first rollout whose mask is not as long as its ids, no such array, holds other values or padding
    between tokens, -1 where there is none; the rest is then void.
    """
    cdef Py_ssize_t count = len(masks), i, faulty = -1, width = 0
    cdef bint together = type(masks) is not list
    cdef vector[int64_t] prompts, outputs
    cdef Py_buffer mask
    turns_of, begin_of, length_of = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    cdef int64_t[::1] turns = turns_of, begin = begin_of, length = length_of
    if together:
        PyObject_GetBuffer(masks, &mask, PyBUF_SIMPLE)
        width = mask.len // count if count else 0
        for i in range(count):
            turns[i] = _scan(<const int8_t*> mask.buf + i * width, width, empty, prompts, outputs, &begin[i], &length[i])
            if turns[i] < 0:
                faulty = i
                break
        PyBuffer_Release(&mask)
        return turns_of, _array(prompts), _array(outputs), begin_of, length_of, faulty
    for i in range(count):
        try:
            PyObject_GetBuffer(masks[i], &mask, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
        except (TypeError, ValueError, BufferError):
            return turns_of, None, None, begin_of, length_of, i
        turns[i] = -1
        if mask.ndim == 1 and (mask.format[0] == b"b" or mask.format[0] == b"?") and len(ids[i]) == mask.len:
            turns[i] = _scan(<const int8_t*> mask.buf, mask.len, empty, prompts, outputs, &begin[i], &length[i])
        PyBuffer_Release(&mask)
        if turns[i] < 0:
            faulty = i
            break
    return turns_of, _array(prompts), _array(outputs), begin_of, length_of, faulty


cdef int64_t _scan(const int8_t* mask, Py_ssize_t length, bint empty, vector[int64_t]& prompts,
                   vector[int64_t]& outputs, int64_t* begin, int64_t* first_prompt) except? -2:
    """Append the turns of one mask; returns how many, -1 for a mask that is none."""
    cdef Py_ssize_t at = 0, run
    cdef int64_t prompt = 0, turns = 0
    if length and mask[0] == -1:
        at = _stretch(mask, 0, length)
    begin[0] = at
    first_prompt[0] = -1
    while at < length:
        run = at
        at = _stretch(mask, at, length)
        if mask[run] == 1:
            if turns == 0:
                first_prompt[0] = prompt
            prompts.push_back(prompt)
            outputs.push_back(at - run)
            turns += 1
        elif mask[run] == -1:
            if at < length:
                return -1
            break
        elif mask[run] != 0:
            return -1
        prompt += at - run
    if turns == 0:
        first_prompt[0] = prompt
        if empty:
            prompts.push_back(prompt)
            outputs.push_back(0)
            turns = 1
    return turns


def prompt_groups(list ids not None, const int64_t[::1] begin, const int64_t[::1] length):
    """Numbers (by rollout) for distinct first prompts, shape (rollouts,).

    The prompt of rollout i is ``ids[i][begin[i]:begin[i] + length[i]]``; arrays are contiguous, of any integer type.
    """
    cdef Py_ssize_t count = len(ids), i, size
    cdef Py_buffer tokens
    cdef uint64_t h
    cdef dict groups = {}
    groups_of = np.empty(count, np.int64)
    cdef int64_t[::1] group = groups_of
    for i in range(count):
        PyObject_GetBuffer(ids[i], &tokens, PyBUF_SIMPLE)
        size = tokens.itemsize
        if (begin[i] + length[i]) * size > tokens.len:
            PyBuffer_Release(&tokens)
            raise ValueError(f"rollout {i}: {tokens.len} bytes of ids for {begin[i] + length[i]} tokens")
        h = _hash(<const char*> tokens.buf + begin[i] * size, length[i] * size)
        PyBuffer_Release(&tokens)
        group[i] = groups.setdefault((h, length[i], size), i)
    return groups_of


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


# -------------------------------------------------------------------------------------- messages of known token counts


def message_turns(list conversations not None, list token_counts not None, const int64_t[::1] before, int64_t head):
    """Turns of conversations; returns (turns of each, prompt, output, tool offsets, tool numbers, tool tokens, names).

    Every assistant message is a turn; its prompt is all that precedes it: ``before[i]`` tokens, the counts of the
    messages, and ``head`` for the head of each answer. A conversation without one has one turn that reads all and
    writes nothing. ``tool offsets`` (turns + 1,) say which tool messages each turn reads first; their numbers index
    ``names``, -1 where a message does not say. Raises ValueError(conversation, problem).
    """
    cdef Py_ssize_t count = len(conversations), i, at, size
    cdef int64_t context, tokens, number, turns
    cdef vector[int64_t] prompts, outputs, offsets, tools, tool_tokens
    cdef list messages
    cdef dict names = {}
    cdef object message, role, counts
    turns_of = np.empty(count, np.int64)
    cdef int64_t[::1] turn_count = turns_of
    offsets.push_back(0)
    for i in range(count):
        messages = conversations[i] if type(conversations[i]) is list else list(conversations[i])
        counts = token_counts[i]
        size = len(messages)
        if len(counts) != size:
            raise ValueError(i, f"{len(counts)} token counts for {size} messages")
        context = before[i]
        turns = 0
        for at in range(size):
            message = messages[at]
            tokens = counts[at]
            if tokens < 0:
                raise ValueError(i, f"message {at} has {tokens} tokens")
            try:
                role = message["role"]
            except (KeyError, TypeError, IndexError):
                raise ValueError(i, f"message {at} has no role") from None
            if role == "assistant":
                context += head
                prompts.push_back(context)
                outputs.push_back(tokens)
                offsets.push_back(tools.size())
                turns += 1
            elif role == "tool" or role == "function":
                number = _tool_number(names, _tool_name(messages, at, message.get("name"), message.get("tool_call_id")))
                tools.push_back(number)
                tool_tokens.push_back(tokens)
            elif type(message.get("content")) is list:
                _add_results(messages, at, message["content"], tokens, names, tools, tool_tokens)
            context += tokens
        if turns == 0:
            prompts.push_back(context)
            outputs.push_back(0)
            offsets.push_back(tools.size())
            turns = 1
        else:  # what tools answered after the last turn is read by none
            while tools.size() > <size_t> offsets.back():
                tools.pop_back()
                tool_tokens.pop_back()
        turn_count[i] = turns
    return (turns_of, _array(prompts), _array(outputs), _array(offsets), _array(tools), _array(tool_tokens),
            list(names))


cdef int64_t _tool_number(dict names, object name) except? -2:
    return names.setdefault(name, len(names)) if type(name) is str else -1


cdef object _tool_name(list messages, Py_ssize_t at, object name, object call_id):
    """The tool that a message answers for: its own word for it, else that of the call before it with its id."""
    cdef Py_ssize_t i
    if name is not None or call_id is None:
        return name
    for i in range(at - 1, -1, -1):
        for call in _calls(messages[i]):
            if isinstance(call, dict) and call.get("id") == call_id:
                function = call.get("function", call)
                return function.get("name") if isinstance(function, dict) else None
    return None


cdef object _calls(object message):
    """Whatever in a message may be a tool call: OpenAI's ``tool_calls``, Anthropic's ``tool_use`` parts."""
    calls, content = message.get("tool_calls"), message.get("content")
    return [*(calls if isinstance(calls, (list, tuple)) else ()), *(content if type(content) is list else ())]


cdef int _add_results(list messages, Py_ssize_t at, list content, int64_t tokens, dict names, vector[int64_t]& tools,
                      vector[int64_t]& tool_tokens) except -1:
    """Anthropic's ``tool_result`` parts of a user message, each with an equal part of the message's tokens."""
    cdef list results = [part for part in content if isinstance(part, dict) and part.get("type") == "tool_result"]
    cdef Py_ssize_t count = len(results), i
    for i in range(count):
        name = _tool_name(messages, at, results[i].get("name"), results[i].get("tool_use_id"))
        tools.push_back(_tool_number(names, name))
        tool_tokens.push_back(tokens // count + (i < tokens % count))
    return 0


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
