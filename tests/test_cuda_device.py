"""Batches on a device, taken over and handed out without a copy: numpy's arrays stand for torch's in the emulation."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from cases import CASES, RATES, all_rates, batches, columns, linear, step_table
from emulation import is_emulated
from hypothesis import HealthCheck, given, settings

import kvsim
from kvsim import backends
from kvsim.backends import cuda
from kvsim.backends.interface import empty_columns
from kvsim.backends.kernels import TOTALS, PriceColumns
from kvsim.errors import InputError
from kvsim.metrics.pte import READINGS

MODEL = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
PLAIN = ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns", "trajectory")


class Interface:
    """An array that has __cuda_array_interface__ alone, as Numba's have."""

    def __init__(self, array, **more):
        self._array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": array.strides,
            "version": 3,
            **more,
        }


def on_device(module, array):
    """The array where the module's kernels reach it."""
    if is_emulated(module):
        return np.array(array)
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.array(array)).cuda()


def resident(module, batch, wrap=lambda array: array):
    given_columns = {name: wrap(on_device(module, getattr(batch, name))) for name in PLAIN}
    if batch.after is not batch.parent:
        given_columns["after"] = wrap(on_device(module, batch.after))
    if batch.waits_for is not None:
        parts = (batch.waits_for.offsets, batch.waits_for.values)
        given_columns["waits_for"] = tuple(wrap(on_device(module, part)) for part in parts)
    if batch.cached_tokens is not None:
        given_columns["cached_tokens"] = wrap(on_device(module, batch.cached_tokens))
    return kvsim.DeviceBatch.from_columns(**given_columns)


def without_prefixes(batch):
    if batch.prefix is None:
        return batch
    kept = np.where(batch.parent < 0, 0, batch.kept_tokens)
    more = {"waits_for": batch.waits_for, "after": batch.after, "cached_tokens": batch.cached_tokens}
    return kvsim.Batch.from_columns(**{name: batch.columns[name] for name in PLAIN} | {"kept_tokens": kept} | more)


def assert_priced_alike(module, rates, batch):
    native, step = backends.get("native"), step_table(rates)
    made = empty_columns(batch.turns)
    expected = native.estimate(native.prepare(rates, step), native.pack(batch), made)
    backend = cuda.CudaBackend(module)
    there = resident(module, batch)
    assert (len(there), there.turns, there.longest) == (len(batch), batch.turns, batch.longest)
    totals, held, prices = backend.call(there.resident.estimate, *backend.prepare(rates, step), True)
    for number, name in enumerate(TOTALS):
        np.testing.assert_array_equal(totals[number].numpy(), expected.totals[:, number], err_msg=name)
    assert held.numpy().tobytes() == expected.held_block_ns.tobytes()
    for name, found in PriceColumns(*prices)._asdict().items():
        assert found.numpy().tobytes() == getattr(made, name).tobytes(), name


@pytest.mark.parametrize("rates", [rates for _, rates in RATES], ids=[name for name, _ in RATES])
@pytest.mark.parametrize("batch", [batch for _, batch in CASES], ids=[name for name, _ in CASES])
def test_cases_are_priced_alike(chosen_cuda, rates, batch):
    assert_priced_alike(chosen_cuda, rates, without_prefixes(batch))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), rates=all_rates())
def test_whatever_is_drawn_is_priced_alike(chosen_cuda, batch, rates):
    assert_priced_alike(chosen_cuda, rates, without_prefixes(batch))


@pytest.mark.parametrize("batch", [linear(7, 200), dict(CASES)["fork, join and compaction in any row order"]])
@pytest.mark.parametrize("load", [kvsim.Load(), kvsim.Load(concurrent=3, mean_context=9000, kv="ttl:3")])
def test_values_have_the_bits_of_estimates_in_host_memory(chosen_cuda, batch, load):
    host = kvsim.estimate(batch, **MODEL, load=load, backend="native")
    there = kvsim.estimate(resident(chosen_cuda, batch), **MODEL, load=load, strict=True)
    for name in ("latency_s", "model_s", "fresh_prefill_s", "recompute_s", "decode_s", "gpu_s", "usd", "joules"):
        assert getattr(there, name).numpy().tobytes() == getattr(host, name).tobytes(), name
    for name in ("kv_byte_s", "cached_tokens", "recomputed_tokens"):
        assert getattr(there, name).numpy().tobytes() == getattr(host, name).tobytes(), name
    for name in there.turns:
        expected = host._columns.status if name == "status" else host.turns[name]
        assert there.turns[name].numpy().tobytes() == expected.tobytes(), name


def test_what_cannot_be_priced_is_nan_or_an_error(chosen_cuda):
    batch = columns([{"prompt_tokens": 10**6}, {"trajectory": 1}])
    host = kvsim.estimate(batch, **MODEL, backend="native")
    there = kvsim.estimate(resident(chosen_cuda, batch), **MODEL)
    np.testing.assert_array_equal(there.gpu_s.numpy(), host.gpu_s)
    np.testing.assert_array_equal(there.turns["e2e_s"].numpy(), host.turns["e2e_s"])
    np.testing.assert_array_equal(there.unpriced_turns.numpy(), [1, 0])
    with pytest.raises(InputError, match="1 trajectories have turns beyond"):
        kvsim.estimate(resident(chosen_cuda, batch), **MODEL, strict=True)


@pytest.mark.parametrize("reading", READINGS)
def test_pte_is_that_of_the_host(chosen_cuda, reading):
    shuffled = dict(CASES)["fork, join and compaction in any row order"]
    for batch in (linear(9, 40), shuffled, columns([{"prompt_tokens": 10**6}, {"trajectory": 1}]), linear(0, 0)):
        asked = {"model": "openai/gpt-oss-20b", "gpu": "h100-sxm", "reading": reading}
        host, there = kvsim.pte(batch, **asked, backend="native"), kvsim.pte(resident(chosen_cuda, batch), **asked)
        assert there.turns.numpy().tobytes() == host.turns.tobytes()
        assert there.trajectories.numpy().tobytes() == host.trajectories.tobytes()
        assert there.gamma == host.gamma


@pytest.mark.parametrize("unit", ["gpu_s", "latency_s", "kv_byte_s", "usd", "pte"])
def test_cost_terms_price_there(chosen_cuda, unit):
    long = columns([{"prompt_tokens": 10**6, "output_tokens": 7}, {"parent": 0, "kept_tokens": 1, "pause_ns": 5}])
    for batch in (linear(9, 40), long):
        measured = kvsim.Batch.from_columns(**{name: batch.columns[name] for name in PLAIN})
        term = kvsim.CostTerm(**MODEL, unit=unit, reading="exact")
        found = term(resident(chosen_cuda, measured))
        assert found.numpy().tobytes() == term(measured).tobytes()


def test_cost_terms_refuse_what_they_cannot_tell_on_a_device(chosen_cuda):
    term = kvsim.CostTerm(**MODEL)
    fork = columns([{"prompt_tokens": 50}, {"parent": 0, "kept_tokens": 20, "prompt_tokens": 70, "trajectory": 1}])
    with pytest.raises(InputError, match="forked"):
        term(resident(chosen_cuda, fork))
    with pytest.raises(InputError, match="beside a batch"):
        term(resident(chosen_cuda, linear(2)), tool_s=[[1.0]])
    with pytest.raises(InputError, match="'native'"):
        kvsim.CostTerm(**MODEL, backend="native")(resident(chosen_cuda, linear(2)))
    with pytest.raises(InputError, match="'numba'"):
        kvsim.estimate(resident(chosen_cuda, linear(2)), **MODEL, backend="numba")


def test_columns_are_taken_over_without_a_copy_and_let_go(chosen_cuda):
    if not is_emulated(chosen_cuda):
        pytest.skip("counts of the pretended card")
    chosen_cuda.release_memory()
    before = chosen_cuda.counts()["device_bytes"]
    given_columns = {name: np.array(getattr(linear(50, 100), name)) for name in PLAIN}
    batch = kvsim.DeviceBatch.from_columns(**given_columns)
    # What was made: where 100 trajectories start, twice, and scratch. 5,000 rows of a column take 40,000 bytes.
    assert chosen_cuda.counts()["device_bytes"] - before < 3000
    died = weakref.ref(given_columns.pop("parent"))
    gc.collect()
    assert died() is not None
    del batch
    gc.collect()
    assert died() is None


@pytest.mark.parametrize("wrap", [lambda array: array, Interface], ids=["dlpack", "cuda_array_interface"])
def test_both_protocols_in_and_out(chosen_cuda, wrap):
    if not is_emulated(chosen_cuda):
        wrap = (lambda array: array) if wrap is not Interface else pytest.importorskip("cupy").asarray
    batch = linear(5, 30)
    price = kvsim.estimate(resident(chosen_cuda, batch, wrap), **MODEL)
    expected = kvsim.estimate(batch, **MODEL, backend="native")
    if is_emulated(chosen_cuda):
        found = np.from_dlpack(price.gpu_s)
        assert price.gpu_s.__dlpack_device__() == (1, 0)  # what it is: host memory
        np.testing.assert_array_equal(found, expected.gpu_s)
        strided = np.from_dlpack(price.cached_tokens)
        np.testing.assert_array_equal(strided, expected.cached_tokens)
        del price
        gc.collect()
        np.testing.assert_array_equal(found, expected.gpu_s)  # it keeps the memory
        return
    torch = pytest.importorskip("torch")
    assert price.gpu_s.__dlpack_device__()[0] == 2
    np.testing.assert_array_equal(torch.from_dlpack(price.gpu_s).cpu().numpy(), expected.gpu_s)
    np.testing.assert_array_equal(torch.as_tensor(price.cached_tokens).cpu().numpy(), expected.cached_tokens)


def test_results_go_back_in(chosen_cuda):
    """An array of the module's own is taken as one of the columns."""
    batch = linear(5, 30)
    cached = kvsim.estimate(resident(chosen_cuda, batch), **MODEL).turns["cached_tokens"]
    given_columns = {name: on_device(chosen_cuda, getattr(batch, name)) for name in PLAIN}
    again = kvsim.DeviceBatch.from_columns(**given_columns, cached_tokens=cached)
    logged = kvsim.Batch.from_columns(**{name: batch.columns[name] for name in PLAIN}, cached_tokens=cached.numpy())
    load = kvsim.Load(kv="logged")
    found = kvsim.estimate(again, **MODEL, load=load).kv_byte_s.numpy()
    assert found.tobytes() == kvsim.estimate(logged, **MODEL, load=load, backend="native").kv_byte_s.tobytes()


def test_torch_and_kvsim_hand_each_other_arrays(chosen_cuda):
    torch = pytest.importorskip("torch")
    if not is_emulated(chosen_cuda):
        pytest.skip("is what the other tests do there")
    batch = linear(5, 30)
    there = kvsim.DeviceBatch.from_columns(**{name: torch.from_numpy(np.array(getattr(batch, name))) for name in PLAIN})
    found = torch.from_dlpack(kvsim.estimate(there, **MODEL).gpu_s)
    np.testing.assert_array_equal(found.numpy(), kvsim.estimate(batch, **MODEL, backend="native").gpu_s)


BAD = [
    ("parent", 4, 999, "row 4: parent is 999"),
    ("parent", 4, -2, "row 4: parent is -2"),
    ("prompt_tokens", 3, 0, "row 3: prompt_tokens is 0, outside 1 to 1073741824"),
    ("output_tokens", 2, -1, "row 2: output_tokens is -1"),
    ("kept_tokens", 5, 10**9, "row 5: kept_tokens is 1000000000"),
    ("kept_tokens", 0, 1, "row 0: kept_tokens is 1"),
    ("pause_ns", 1, -(1 << 63), "row 1: pause_ns is -9223372036854775808"),
    ("arrival_ns", 1, 1 << 62, "row 1: arrival_ns"),
    ("trajectory", 6, 999, "row 6: trajectory is 999"),
    ("trajectory", 8, 3, "trajectory 2 has no turn"),
]


@pytest.mark.parametrize(("name", "row", "value", "message"), BAD)
def test_invalid_columns_are_refused_with_row_field_and_remedy(chosen_cuda, name, row, value, message):
    batch = linear(4, 3)
    given_columns = {column: np.array(getattr(batch, column)) for column in PLAIN}
    given_columns[name][row:] = np.where(np.arange(12 - row) == 0, value, given_columns[name][row:])
    if message == "trajectory 2 has no turn":
        given_columns["trajectory"][8:] = 3
    with pytest.raises(InputError) as caught:
        kvsim.DeviceBatch.from_columns(**{one: on_device(chosen_cuda, array) for one, array in given_columns.items()})
    assert message in str(caught.value)
    assert caught.value.field == name
    assert caught.value.remedy


def test_cycles_and_joins_that_lead_nowhere_are_refused(chosen_cuda):
    def given_columns(**changes):
        made = {name: np.array(getattr(linear(3), name)) for name in PLAIN}
        return {name: on_device(chosen_cuda, array) for name, array in (made | changes).items()}

    with pytest.raises(InputError, match="cycle"):
        kvsim.DeviceBatch.from_columns(**given_columns(after=np.array([2, 0, 1])))
    for offsets, rows in [([0, 0, 1, 1], [7]), ([0, 2, 1, 2], [0, 0]), ([0, 0, 0, 0], [1]), ([1, 1, 1, 1], [1])]:
        waits = tuple(on_device(chosen_cuda, np.array(part, np.int64)) for part in (offsets, rows))
        with pytest.raises(InputError) as caught:
            kvsim.DeviceBatch.from_columns(**given_columns(), waits_for=waits)
        assert caught.value.field == "waits_for"


def test_arrays_that_cannot_be_taken_are_refused_by_name(chosen_cuda):
    def refused(**changes):
        made = {name: np.array(getattr(linear(4), name)) for name in PLAIN}
        if not is_emulated(chosen_cuda):
            made = {name: on_device(chosen_cuda, array) for name, array in made.items()}
        with pytest.raises(InputError) as caught:
            kvsim.DeviceBatch.from_columns(**(made | changes))
        assert caught.value.field == next(iter(changes))
        return str(caught.value)

    class Elsewhere:
        def __dlpack_device__(self):
            return 10, 0  # ROCm

        def __dlpack__(self, **asked):
            raise AssertionError("is not asked for")

    assert "neither __dlpack__ nor" in refused(parent=[1, 2, 3, 4])
    assert "not in memory that the device reaches" in refused(pause_ns=Elsewhere())
    if is_emulated(chosen_cuda):
        assert "another type" in refused(prompt_tokens=np.ones(4, np.int32))
        assert "2 dimensions" in refused(prompt_tokens=np.ones((4, 1), np.int64))
        assert "not contiguous" in refused(prompt_tokens=np.ones(8, np.int64)[::2])
        assert "3 values in place of 4" in refused(prompt_tokens=np.ones(3, np.int64))
        assert "another type" in refused(output_tokens=Interface(np.ones(4)))
        assert "not contiguous" in refused(output_tokens=Interface(np.ones(8, np.int64)[::2]))
        assert "masked" in refused(output_tokens=Interface(np.ones(4, np.int64), mask=np.ones(4)))


def test_arrays_are_handed_over_where_they_are(chosen_cuda):
    array = kvsim.estimate(resident(chosen_cuda, linear(3)), **MODEL).gpu_s
    with pytest.raises(BufferError, match="without a copy"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="where it is"):
        array.__dlpack__(dl_device=(2, 5))
    assert (len(array), array.shape, array.dtype) == (1, (1,), np.float64)


def test_pte_of_more_windows_than_a_device_takes_is_refused(chosen_cuda):
    from test_pte import many_windows

    batch, asked = linear(1, 2), {"gpu": "h100-sxm", "reading": "exact"}
    for where in (batch, resident(chosen_cuda, batch)):
        kvsim.pte(where, model=many_windows(8), **asked, backend="cuda")
        with pytest.raises(kvsim.InputError, match="9 different windows") as caught:
            kvsim.pte(where, model=many_windows(9), **asked, backend="cuda")
        assert (caught.value.field, bool(caught.value.remedy)) == ("model", True)
