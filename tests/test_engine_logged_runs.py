"""Decisions equal to those of the real vLLM engine, step by step, over its own logs."""

from __future__ import annotations

import gzip
import io
import json
import shutil

import pytest

from kvsim.backends.stepping import STEPPERS
from kvsim.errors import InputError
from kvsim.validate_steps import report, validate_steps


@pytest.fixture
def excerpt(request):
    return request.path.parent / "data" / "vllm_steps"


@pytest.mark.parametrize("backend", sorted(STEPPERS))
def test_an_excerpt_with_eviction_and_preemption(excerpt, backend):
    checked = validate_steps(excerpt, backend=backend)
    assert checked.exact
    assert checked.summary == "1 runs, 797 steps, 544 evictions, 9 preemptions: 0 steps differ"


def test_repeats_of_a_run_each_take_their_own_decisions(excerpt):
    checked = validate_steps(excerpt.parent / "vllm_repeats")
    assert checked.summary == "20 runs, 9,231 steps, 8,305 evictions, 45 preemptions: 0 steps differ"


@pytest.mark.parametrize("backend", sorted(STEPPERS))
def test_every_logged_run(shared, backend):
    out = io.StringIO()
    assert report(shared / "data" / "measured" / "vllm_cpu", out, backend=backend) == 0
    lines = out.getvalue().splitlines()
    assert lines[-1] == "40 runs, 17,606 steps, 9,434 evictions, 30 preemptions: 0 steps differ"
    unreplayable = [line for line in lines if "not replayable" in line]
    assert len(unreplayable) == 7
    assert all(any(kind in line for kind in ("http", "micro", "rules")) for line in unreplayable)


def test_a_difference_is_found_and_told(excerpt, tmp_path):
    folder = tmp_path / "logs"
    shutil.copytree(excerpt, folder)
    log = folder / "steps_c128.jsonl.gz"
    lines = gzip.decompress(log.read_bytes()).decode().splitlines()
    step = json.loads(lines[300])
    step["free"] += 1
    lines[300] = json.dumps(step)
    (folder / "steps_c128.jsonl").write_text("\n".join(lines))
    log.unlink()
    out = io.StringIO()
    assert report(folder, out) == 1
    assert f"step {step['i']}: free {step['free'] - 1}, logged {step['free']}" in out.getvalue()


def test_a_folder_without_logs_is_an_error(tmp_path):
    with pytest.raises(InputError, match="steps_"):
        validate_steps(tmp_path)
