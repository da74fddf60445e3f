"""Prometheus' text format, as far as vLLM's ``/metrics`` uses it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kvsim.live.engine import Counters

_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One line of the page."""

    name: str
    labels: Mapping[str, str]
    value: float


class MetricsPage:
    """A page's samples by name."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        for sample in _samples(text):
            self._samples[sample.name].append(sample)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        """The labels of each sample of a name."""
        return [sample.labels for sample in self._samples.get(name, [])]

    def total(self, name: str, otherwise: float = 0.0) -> float:
        """The sum of a name's samples over all engines; ``otherwise`` where the page has none."""
        samples = self._samples.get(name)
        return sum(sample.value for sample in samples) if samples else otherwise

    @property
    def engines(self) -> int:
        """How many engines (data-parallel ranks) the page speaks of."""
        return len({labels.get("engine", "0") for labels in self.labels("vllm:num_requests_running")})

    @property
    def started(self) -> float | None:
        """When the server's process started; None where it does not say."""
        return self.total("process_start_time_seconds") or None

    def counters(self) -> Counters | None:
        """vLLM's counters, None on a page of something else."""
        if "vllm:num_requests_running" not in self._samples:
            return None
        return Counters(
            running=round(self.total("vllm:num_requests_running")),
            waiting=round(self.total("vllm:num_requests_waiting")),
            prompt_tokens=round(self.total("vllm:prompt_tokens_total")),
            output_tokens=round(self.total("vllm:generation_tokens_total")),
            cached_tokens=round(self.total("vllm:prefix_cache_hits_total")),
            preemptions=round(self.total("vllm:num_preemptions_total")),
            prefill_s=self.total("vllm:request_prefill_time_seconds_sum"),
            prefills=round(self.total("vllm:request_prefill_time_seconds_count")),
            decode_s=self.total("vllm:request_decode_time_seconds_sum"),
            decodes=round(self.total("vllm:request_decode_time_seconds_count")),
        )

    def cache(self) -> dict[str, object]:
        """Block size, block count and prefix caching, by the names of engine arguments; what is not said is left
        out."""
        found: dict[str, object] = {}
        for labels in self.labels("vllm:cache_config_info")[:1]:
            for key, name in (("block_size", "block_size"), ("num_gpu_blocks", "num_gpu_blocks_override")):
                if labels.get(key, "").isdigit():
                    found[name] = int(labels[key])
            if "enable_prefix_caching" in labels:
                found["enable_prefix_caching"] = labels["enable_prefix_caching"] == "True"
            if labels.get("cache_dtype", "auto") != "auto":
                found["kv_cache_dtype"] = labels["cache_dtype"]
        return found


def _samples(text: str) -> Iterator[Sample]:
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        yield Sample(name, dict(_LABEL.findall(labels or "")), number)
