"""What a model is made of, and what follows from it: parameters, weight bytes, KV bytes, the work per token.

An :class:`Architecture` comes from a shipped profile or from a Hugging Face ``config.json``; only the text
decoder is described (no vision tower, no next-token-prediction layers). Counts are exact for the layers'
matrices; norms of single heads, output and expert biases and a kernel's own padding are left out (< 0.1 %).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from kvsim import _hf_config, _profiles
from kvsim._layers import PLAIN_KERNELS, AttentionGroup, Experts, Gemm, Layers
from kvsim._weights import (
    DTYPE_BYTES,
    UNQUANTIZED,
    WeightFormat,
    checkpoint_format,
    dtype_name,
    weight_format,
)
from kvsim.errors import InputError

__all__ = ["Architecture", "AttentionGroup", "Experts", "Gemm", "Head", "kv_element_bytes", "models"]

KV_DTYPE_BYTES = {
    "bfloat16": 2.0,
    "bf16": 2.0,
    "float16": 2.0,
    "fp16": 2.0,
    "float32": 4.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    # vLLM's format for sparse MLA: 512 fp8 latents, 4 fp32 scales and 64 bf16 rotary values for 576 elements.
    "fp8_ds_mla": 656 / 576,
}
"""Bytes per cached element of vLLM's KV cache dtypes."""

VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this (vocab_parallel_embedding.DEFAULT_VOCAB_PADDING_SIZE)."""

Kind: TypeAlias = Literal["published", "cross-checked", "local"]
"""Where the fields come from: a published copy of the config, agreement of other sources, a user's file."""

_HEAD = ("name", "kind", "source")
_HEAD_OPTIONAL = ("aliases", "note")


@dataclass(frozen=True, slots=True)
class Head:
    """The language-model head on one rank: ``vocabulary`` logits from ``hidden`` inputs; never quantised."""

    vocabulary: int
    hidden: int

    @property
    def weights(self) -> int:
        """Elements of its matrix."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only language model, as cost sees it.

    ``dtype`` is the checkpoint's ("bfloat16", ...), ``quantization`` how it stores its weights (None:
    unquantised); ``max_model_len`` counts tokens; ``kind`` and ``source`` say where the facts come from.
    Methods that take ``tp`` answer for one of ``tp`` tensor-parallel ranks, and raise InputError if it
    does not divide the heads.
    """

    name: str
    hidden_size: int
    vocab_size: int
    tied_head: bool
    max_model_len: int
    dtype: str
    quantization: WeightFormat | None
    layers: tuple[Layers, ...]
    source: str
    kind: Kind = "local"
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, name_or_path: str | Path) -> Architecture:
        """The architecture of a shipped model by hub name or alias, or of a local ``config.json``.

        Raises UnknownNameError for a name that is not shipped, InputError naming file, field and remedy for a
        config that lacks a needed field or whose attention scheme is not supported.
        """
        name = str(name_or_path)
        if isinstance(name_or_path, Path) or _profiles.looks_like_path(name, ".json"):
            return _from_json(Path(name).expanduser())
        return _shipped(_names().resolve(name))

    @classmethod
    def of_config(cls, config: Mapping[str, Any], name: str, *, file: str = "config") -> Architecture:
        """The architecture of a decoded ``config.json``; ``file`` stands in errors, which are those of :meth:`load`."""
        return _build(name, dict(config), file=file, source=file, kind="local")

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return sum(group.count for group in self.layers)

    @property
    def parameters(self) -> int:
        """Weights of the decoder, embedding and head (once if tied) included."""
        routed = self.experts()
        return self._dense_parameters() + (routed.weights if routed else 0)

    @property
    def active_parameters(self) -> int:
        """Weights that take part in one token's forward pass: of the routed experts only the chosen ones."""
        routed = self.experts()
        chosen = routed.weights // routed.count * routed.per_token if routed else 0
        return self._dense_parameters() + chosen

    @property
    def all_reduces_per_step(self) -> int:
        """All-reduces of (tokens x hidden_size) in a step with tp > 1: after each layer's attention and
        feed-forward part, and after the embedding."""
        return 1 + sum(group.count * (1 + group.mlp.all_reduces()) for group in self.layers)

    @property
    def norm_all_reduces_per_step(self) -> int:
        """All-reduces of a few bytes per token in a step with tp > 1, for norms over all heads."""
        return sum(group.count * group.attention.norm_all_reduces() for group in self.layers)

    @property
    def plain_layers(self) -> float:
        """How many plain layers launch as many kernels as the model's."""
        return sum(group.count * group.kernels for group in self.layers) / PLAIN_KERNELS

    def gemms(self, tp: int = 1) -> tuple[Gemm, ...]:
        """The dense products of all layers on one rank, equal ones together. No routed experts, no head."""
        self.check_tensor_parallel(tp)
        counts: dict[Gemm, int] = {}
        for group in self.layers:
            for gemm in (*group.attention.gemms(tp), *group.mlp.gemms(tp)):
                counts[gemm] = counts.get(gemm, 0) + group.count
        return tuple(replace(gemm, layers=count) for gemm, count in counts.items())

    def experts(self, tp: int = 1) -> Experts | None:
        """The routed experts of all layers on one rank, or None; every model known has one shape of them."""
        self.check_tensor_parallel(tp)
        routed = [(group.count, group.mlp.routed(tp)) for group in self.layers]
        shapes = {experts for _, experts in routed if experts}
        if not shapes:
            return None
        (shape,) = shapes
        return replace(shape, layers=sum(count for count, experts in routed if experts))

    def head(self, tp: int = 1) -> Head:
        """The language-model head on one rank; the embedding has the same shape."""
        padded = -(-self.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
        return Head(-(-padded // tp), self.hidden_size)

    def attention_groups(self, tp: int = 1) -> tuple[AttentionGroup, ...]:
        """Attention and KV cache of all layers on one rank, layers that attend alike together."""
        self.check_tensor_parallel(tp)
        counts: dict[AttentionGroup, int] = {}
        for layers in self.layers:
            for group in layers.attention.groups(tp):
                counts[group] = counts.get(group, 0) + layers.count
        return tuple(replace(group, layers=count) for group, count in counts.items())

    def recurrent_state_bytes(self, tp: int = 1) -> int:
        """Bytes per sequence and rank of the states of linear-attention layers (0 without such layers)."""
        self.check_tensor_parallel(tp)
        element = DTYPE_BYTES[self.dtype]
        return sum(group.count * group.attention.state_bytes(tp, element) for group in self.layers)

    def kv_bytes_per_token(self, kv_dtype: str = "bfloat16", tp: int = 1) -> int:
        """Keys, values or latents cached per token and rank, all attention layers keeping theirs.

        Leaves out what windows let go (see :meth:`kv_bytes_of_sequence`) and the sparse indexer's keys
        (:meth:`index_bytes_per_token`). With tp above the KV heads the ranks hold copies.
        """
        element = kv_element_bytes(kv_dtype)
        groups = self.attention_groups(tp)
        return round(sum(group.layers * group.cached_elements * element for group in groups))

    def index_bytes_per_token(self) -> int:
        """Bytes per token that a sparse indexer caches beside the KV cache, on every rank."""
        return sum(group.layers * group.cached_bytes for group in self.attention_groups())

    def kv_bytes_of_sequence(
        self, tokens: int, kv_dtype: str = "bfloat16", tp: int = 1, *, step_tokens: int = 1
    ) -> int:
        """Cache bytes per rank of a sequence of ``tokens``, states included.

        Windowed layers keep what the oldest query of a step of ``step_tokens`` still sees.
        """
        element = kv_element_bytes(kv_dtype)
        total = self.recurrent_state_bytes(tp)
        for group in self.attention_groups(tp):
            kept = tokens if group.keeps_all else min(tokens, group.window - 1 + step_tokens)
            total += kept * group.bytes_per_token(element)
        return total

    def weight_format(self, quantization: str | None = None) -> WeightFormat | None:
        """How weights are stored: as asked for by name, else as the checkpoint does; None is unquantised.

        A name that agrees with the checkpoint keeps its own details (group size, what it covers).
        """
        if quantization is None or quantization.lower() == "compressed-tensors":
            return self.quantization
        if quantization.lower() in UNQUANTIZED:
            return None
        asked = weight_format(quantization)
        stored = self.quantization
        same = stored is not None and stored.name.split("_")[0] == asked.name.split("_")[0]
        return stored if same else asked

    def weight_bytes(self, quantization: str | None = None, dtype: str = "auto", tp: int = 1) -> int:
        """Bytes of the weights on one rank.

        ``quantization`` as in vLLM ("fp8", "awq", "mxfp4", ...), None for the checkpoint's own, "none" for
        unquantised; ``dtype`` is that of everything that is not quantised: embedding, head, routers, norms.
        """
        element = DTYPE_BYTES[self.dtype if dtype == "auto" else dtype_name(dtype)]
        stored = self.weight_format(quantization)
        packed = stored.bytes_per_weight if stored else element
        dense = packed if stored and stored.scope == "linear" else element
        total = float(self._small_parameters() * element)
        total += self.head(tp).weights * (1 if self.tied_head else 2) * element
        for gemm in self.gemms(tp):
            total += gemm.weights * (dense if gemm.quantized else element)
        routed = self.experts(tp)
        if routed:
            multiple = stored.hidden_multiple if stored else 1
            padded = -(-routed.hidden // multiple) * multiple
            total += routed.weights // routed.hidden * padded * packed
        return round(total)

    def absorbed_bytes(self, dtype: str = "auto", tp: int = 1) -> int:
        """Bytes of the unquantised copies of MLA's key/value up-projection that vLLM makes to absorb it."""
        element = DTYPE_BYTES[self.dtype if dtype == "auto" else dtype_name(dtype)]
        return sum(gemm.weights for gemm in self.gemms(tp) if gemm.batch > 1) * element

    def check_tensor_parallel(self, tp: int) -> None:
        """Refuse a number of ranks that does not divide the heads, as vLLM does."""
        if tp < 1:
            raise InputError(f"{tp} ranks", remedy="Use at least 1.", field="tensor_parallel_size")
        for group in self.layers:
            obstacle = group.attention.obstacle(tp)
            if obstacle:
                raise InputError(
                    f"{self.name} cannot be split over {tp} ranks: {obstacle}",
                    remedy="Choose a divisor of the heads.",
                    field="tensor_parallel_size",
                )

    def _small_parameters(self) -> int:
        """Biases, convolutions and the norms of the layers; whole on every rank for simplicity."""
        norms = self.hidden_size * (2 * self.num_layers + 1)
        return norms + sum(group.count * group.attention.small_parameters() for group in self.layers)

    def _dense_parameters(self) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)
        return embeddings + self._small_parameters() + sum(gemm.weights for gemm in self.gemms())


def kv_element_bytes(kv_dtype: str) -> float:
    """Bytes per cached element of a KV cache dtype by vLLM's name; InputError if unknown."""
    key = kv_dtype.lower()
    if key not in KV_DTYPE_BYTES:
        raise InputError(
            f"{kv_dtype!r} is no KV cache dtype",
            remedy="Use one of " + ", ".join(KV_DTYPE_BYTES) + ".",
            field="kv_cache_dtype",
        )
    return KV_DTYPE_BYTES[key]


def models() -> list[str]:
    """The hub names of all shipped models."""
    return sorted(_files_by_name())


def _build(name: str, config: Mapping[str, Any], *, file: str, source: str, kind: Kind) -> Architecture:
    fields = _hf_config.Config.flat(config, file=file)
    layers = _hf_config.layers(fields)
    quantization = fields.fields.get("quantization_config")
    return Architecture(
        name=name,
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        tied_head=_hf_config.tied(fields),
        max_model_len=_hf_config.max_model_len(fields),
        dtype=_dtype(fields),
        quantization=checkpoint_format(quantization, file=file) if quantization else None,
        layers=layers,
        source=source,
        kind=kind,
        notes=_notes(fields, layers),
    )


def _dtype(config: _hf_config.Config) -> str:
    """The checkpoint's dtype; bfloat16 where it says nothing and for float32, as vLLM's "auto" has it."""
    for field in ("dtype", "torch_dtype"):
        if config.has(field):
            name = dtype_name(str(config.fields[field]).removeprefix("torch."), field=field)
            return "bfloat16" if name == "float32" else name
    return "bfloat16"


def _notes(config: _hf_config.Config, layers: Iterable[Layers]) -> tuple[str, ...]:
    notes = []
    if config.has("attention_chunk_size"):
        notes.append(
            "chunked attention is treated as a sliding window of attention_chunk_size tokens: an upper "
            "bound, on average a query sees half a chunk"
        )
    if config.integer("num_nextn_predict_layers", 0, minimum=0):
        notes.append("next-token-prediction layers are left out: only speculative decoding loads them")
    if any(group.attention.state_bytes(1, 2) for group in layers):
        notes.append("recurrent states are counted in float32, convolution states in the model's dtype")
    return tuple(notes)


def _from_json(path: Path) -> Architecture:
    path = path / "config.json" if path.is_dir() else path
    try:
        raw = msgspec.json.decode(_profiles.read_text(path))
    except msgspec.DecodeError as error:
        raise InputError(f"is not JSON: {error}", remedy="Correct the file.", file=str(path)) from error
    if not isinstance(raw, dict):
        raise InputError("is not a JSON object", remedy="Give a model's config.json.", file=str(path))
    name = str(raw.get("_name_or_path") or path.resolve().parent.name)
    return _build(name, raw, file=str(path), source=str(path), kind="local")


@cache
def _files_by_name() -> Mapping[str, str]:
    """File of each shipped model by hub name."""
    return {str(head["name"]): stem for stem, head in _heads().items()}


@cache
def _heads() -> Mapping[str, Mapping[str, Any]]:
    """What stands above the config in each shipped model's file, up to the first blank line."""
    heads = {}
    for stem, text in _profiles.shipped("models").items():
        file = f"models/{stem}.toml"
        heads[stem] = _profiles.parse_toml(text.partition("\n\n")[0], file=file)
        _profiles.check_fields(heads[stem], file=file, required=_HEAD, optional=_HEAD_OPTIONAL)
    return heads


@cache
def _names() -> _profiles.Names:
    aliases = {name: _aliases(name) for name in _files_by_name()}
    for head in _heads().values():
        aliases[head["name"]] |= set(head.get("aliases", ()))
    return _profiles.Names("model", aliases)


def _aliases(name: str) -> set[str]:
    """A hub name without its organisation, and without what marks the instruction-tuned variant."""
    organisation, _, bare = name.partition("/")
    aliases = {bare}
    for suffix in ("-Instruct", "-it", "-hf"):
        if bare.endswith(suffix):
            aliases |= {bare.removesuffix(suffix), f"{organisation}/{bare.removesuffix(suffix)}"}
    if bare.startswith("Llama-3.1-"):  # the hub has both spellings
        aliases |= {alias.replace("Llama-3.1", "Meta-Llama-3.1") for alias in (name, *aliases)}
    return aliases


@cache
def _shipped(name: str) -> Architecture:
    stem = _files_by_name()[name]
    file = f"models/{stem}.toml"
    table = _profiles.parse_toml(_profiles.shipped("models")[stem], file=file)
    _profiles.check_fields(table, file=file, required=(*_HEAD, "config"), optional=_HEAD_OPTIONAL)
    _profiles.check_fields(
        table["config"], file=file, required=("model_type",), optional=_hf_config.FIELDS, under="config"
    )
    if table["kind"] not in ("published", "cross-checked"):
        raise InputError(
            f"{table['kind']!r} is no kind of source",
            remedy="Use published or cross-checked.",
            file=file,
            field="kind",
        )
    built = _build(name, table["config"], file=file, source=table["source"], kind=table["kind"])
    return replace(built, notes=(table["note"], *built.notes)) if "note" in table else built
