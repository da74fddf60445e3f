"""The benchmarks' own tools: ratios beside stored ones, and peers that are missing."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] in ("baseline", "peers", "agent_sessions")]:
        del sys.modules[name]


def run(folder: Path, **medians: float) -> Path:
    """What pytest-benchmark writes, of benchmarks of a thousand turns."""
    found = [
        {"fullname": "bench_x.py::test", "extra_info": {"role": role, "turns": 1000}, "stats": {"median": median}}
        for role, median in medians.items()
    ]
    path = folder / "run.json"
    path.write_text(json.dumps({"benchmarks": found}))
    return path


def test_a_run_is_compared_by_ratios(bench, tmp_path, monkeypatch, capsys):
    baseline = bench("baseline")
    monkeypatch.setattr(baseline, "STORED", tmp_path / "baseline.json")

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["baseline.py", *map(str, arguments)])
        return baseline.main()

    roles = {"plain": 1.0, "totals": 6.0, "two / totals": 3.0}
    assert command("store", run(tmp_path, **roles)) == 0
    assert json.loads((tmp_path / "baseline.json").read_text()) == {
        "bench_x: totals / plain": 6.0,
        "bench_x: two / totals": 0.5,
    }
    slower = {role: 9 * median for role, median in roles.items()}
    assert command("check", run(tmp_path, **slower)) == 0, "another machine is slower in all"
    assert command("check", run(tmp_path, **{**slower, "two / totals": 60.0})) == 1
    assert "bench_x: two / totals" in capsys.readouterr().out.splitlines()[-1]
    assert command("check", run(tmp_path, **{**slower, "two / totals": 60.0}), "--tolerance", "2") == 0


def test_a_peer_that_cannot_run_is_an_error_of_its_own(bench):
    environments = bench("peers.environments")
    peer = environments.Peer("none")
    assert peer.output([sys.executable, "-c", "print(7)"]) == "7\n"
    for command in ([sys.executable, "-c", "raise SystemExit('no tables')"], ["/nowhere/python"]):
        with pytest.raises(environments.MissingPeerError, match=r"none: .*(no tables|nowhere)"):
            peer.output(command)


def test_requests_of_the_hit_rate_comparison_extend_their_sessions(bench):
    requests = bench("peers.hit_rates").Requests(130, 0)
    batch = requests.batch()
    assert batch.turns == len(requests) == 130 * 21
    for row in (0, 63, 64, 64 * 21, len(requests) - 1):
        parent = int(batch.parent[row])
        assert (parent < 0) == (requests.turn[row] == 0)
        if parent >= 0:
            assert requests.session[parent] == requests.session[row]
            assert requests.hashes(parent) == requests.hashes(row)[: batch.kept_tokens[row] // 16]
