"""Reading a Hugging Face ``config.json`` into layers: the only place that knows each family's spelling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kvsim._layers import (
    Attention,
    HeadAttention,
    Indexer,
    LatentAttention,
    Layers,
    LinearAttention,
    Mlp,
)
from kvsim.errors import InputError

LATENT = frozenset({"deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa"})
"""Families with multi-head latent attention."""

HEADS = frozenset(
    {
        "gemma", "gemma2", "gemma3_text", "gemma4_text", "glm4_moe", "gpt_oss", "granite", "llama",
        "llama4_text", "minimax_m2", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen2_moe",
        "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "seed_oss",
        "smollm3",
    }
)  # fmt: skip
"""Families with attention per head; all have gated MLPs."""

HEADS_NORMED = ("qwen3", "gemma3", "gemma4", "olmo2")
"""Families that norm each head's query and key, by how their names begin."""

NORMED_TWICE = frozenset({"gemma2", "gemma3_text", "gemma4_text"})
"""Families with norms before and after each part of a layer."""

TIED_BY_DEFAULT = frozenset({"gemma", "gemma2", "gemma3_text", "gemma4_text"})
"""Families whose config class ties the head to the embedding where the file does not say."""

WRAPPERS = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "kimi_k25": "kimi_k2",
}
"""Multimodal configs and the family of their nested text decoder."""

FIELDS = frozenset(
    {
        "architectures", "attention_bias", "attention_chunk_size", "attention_k_eq_v",
        "attn_output_gate", "decoder_sparse_step", "dtype", "enable_moe_block", "experts_per_token",
        "first_k_dense_replace", "full_attention_interval", "global_head_dim", "head_dim",
        "hidden_size", "index_head_dim", "index_n_heads", "index_topk", "interleave_moe_layer_step",
        "intermediate_size", "intermediate_size_mlp", "kv_lora_rank", "layer_types",
        "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads",
        "linear_num_value_heads", "linear_value_head_dim", "max_position_embeddings",
        "max_window_layers", "mlp_only_layers", "model_type", "moe_intermediate_size",
        "moe_layer_freq", "moe_layers", "n_routed_experts", "n_shared_experts", "no_rope_layers",
        "num_attention_heads", "num_experts", "num_experts_per_tok", "num_global_key_value_heads",
        "num_hidden_layers", "num_key_value_heads", "num_local_experts", "num_nextn_predict_layers",
        "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "quantization_config",
        "rope_parameters", "rope_scaling", "shared_expert_intermediate_size", "sliding_window",
        "sliding_window_pattern", "tie_word_embeddings", "top_k_experts", "torch_dtype",
        "use_qk_norm", "use_sliding_window", "v_head_dim", "vocab_size",
    }
)  # fmt: skip
"""The fields that bear on cost; a shipped profile may hold no others."""


@dataclass(frozen=True, slots=True)
class Config:
    """A config's fields, with errors that name file and field; a nested ``text_config`` wins."""

    fields: Mapping[str, Any]
    file: str
    under: str = ""

    @classmethod
    def flat(cls, raw: Mapping[str, Any], *, file: str) -> Config:
        """The text decoder's fields of a possibly multimodal config."""
        text = raw.get("text_config")
        if not isinstance(text, Mapping):
            return cls(raw, file)
        outer = {name: value for name, value in raw.items() if name != "text_config"}
        inner = {name: value for name, value in text.items() if value is not None}
        merged = {**outer, **inner}
        merged["model_type"] = text.get("model_type") or WRAPPERS.get(str(raw.get("model_type")), "")
        return cls(merged, file, "text_config.")

    def has(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number of at least ``minimum``; InputError if it is not, or missing without a default."""
        value = self.fields.get(name)
        if value is None:
            if default is not None:
                return default
            raise self.missing(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.wrong(name, f"{value!r} is not a whole number of at least {minimum}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, f"{value!r} is not true or false")
        return value

    def number(self, name: str, default: float, *, most: float) -> float:
        """A number above 0 and up to ``most``."""
        value = self.fields.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise self.wrong(name, f"{value!r} is not a number above 0 and up to {most:g}")
        return float(value)

    def integers(self, name: str, *, length: int | None = None) -> tuple[int, ...] | None:
        """A list of whole numbers, ``length`` of them if given; None if missing."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self.wrong(name, f"{value!r} is not a list of whole numbers")
        if length is not None and len(value) != length:
            raise self.wrong(name, f"{len(value)} numbers for {length} layers", "Give one for each layer.")
        return tuple(value)

    def table(self, name: str) -> Config | None:
        """A nested object's fields; None if missing."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(name, f"{value!r} is not an object with fields")
        return Config(value, self.file, f"{self.under}{name}.")

    def first(self, *names: str) -> str:
        """The first of several spellings that is present; InputError naming the first if none is."""
        for name in names:
            if self.has(name):
                return name
        raise self.missing(names[0])

    def missing(self, name: str) -> InputError:
        return InputError(
            "missing",
            remedy="Add it; the model's own config.json has it.",
            file=self.file,
            field=self.under + name,
        )

    def wrong(self, name: str, problem: str, remedy: str = "Correct it.") -> InputError:
        return InputError(problem, remedy=remedy, file=self.file, field=self.under + name)


def family(config: Config) -> str:
    """The config's ``model_type``, if its attention and MLPs are described here; InputError otherwise."""
    name = str(config.fields.get("model_type") or "")
    name = WRAPPERS.get(name, name)
    if not name:
        raise config.missing("model_type")
    if name not in LATENT | HEADS:
        raise config.wrong(
            "model_type",
            f"the attention scheme of {name!r} is not supported",
            "Supported: "
            + ", ".join(sorted(LATENT | HEADS))
            + ". If the model is built like one of these, name that one in a copy of the file.",
        )
    return name


def layers(config: Config) -> tuple[Layers, ...]:
    """The decoder's layers, identical ones counted together; next-token-prediction layers are left out."""
    name = family(config)
    count = config.integer("num_hidden_layers")
    kinds = _layer_kinds(config, name, count)
    with_experts = _expert_layers(config, name, count)
    counted = Counter((_attention(config, name, kinds[i]), _mlp(config, name, with_experts[i])) for i in range(count))
    norms = 4 if name in NORMED_TWICE else 2
    return tuple(Layers(number, attention, mlp, norms) for (attention, mlp), number in counted.items())


def max_model_len(config: Config) -> int:
    """vLLM's longest context: max_position_embeddings, or what a YaRN ``rope_scaling`` stretches it to."""
    positions = config.integer("max_position_embeddings")
    scaling = config.table("rope_scaling" if config.fields.get("rope_scaling") else "rope_parameters")
    if scaling is not None and (scaling.fields.get("rope_type") or scaling.fields.get("type")) == "yarn":
        original = scaling.number("original_max_position_embeddings", positions, most=_MOST_POSITIONS)
        return max(positions, round(original * scaling.number("factor", 1.0, most=_MOST_STRETCH)))
    return positions


_MOST_POSITIONS, _MOST_STRETCH = 1e9, 1e6
"""No context window is longer, and none is stretched by more."""


def tied(config: Config) -> bool:
    """Whether the language-model head is the embedding."""
    return config.flag("tie_word_embeddings", family(config) in TIED_BY_DEFAULT)


def _layer_kinds(config: Config, name: str, count: int) -> tuple[str, ...]:
    """Each layer's attention: full_attention, sliding_attention, chunked_attention or linear_attention."""
    listed = config.fields.get("layer_types")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != count:
            raise config.wrong("layer_types", f"not a list of num_hidden_layers = {count} names")
        for kind in listed:
            if kind not in ("full_attention", "sliding_attention", "chunked_attention", "linear_attention"):
                raise config.wrong(
                    "layer_types",
                    f"attention scheme {kind!r} is not supported",
                    "Supported: full_attention, sliding_attention, chunked_attention, linear_attention.",
                )
        return tuple(listed) if _window_is_on(config) else ("full_attention",) * count
    if name in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        every = config.integer("full_attention_interval", 4)
        return _every(count, every, "linear_attention")
    if name == "llama4_text" and config.has("attention_chunk_size"):
        # no_rope_layers holds 0 where a layer has no rotary embedding, hence attends to everything.
        empty = config.fields.get("no_rope_layers") == []
        flags = None if empty else config.integers("no_rope_layers", length=count)
        if flags is None:
            flags = tuple((i + 1) % 4 for i in range(count))
        return tuple("chunked_attention" if rotary else "full_attention" for rotary in flags)
    if not config.has("sliding_window") or not _window_is_on(config):
        return ("full_attention",) * count
    if name == "gemma2":
        return _every(count, 2, "sliding_attention")
    if name == "gemma3_text":
        return _every(count, config.integer("sliding_window_pattern", 6), "sliding_attention")
    if name.startswith("qwen"):
        first = config.integer("max_window_layers", minimum=0)
        return tuple("full_attention" if i < first else "sliding_attention" for i in range(count))
    return ("sliding_attention",) * count


def _window_is_on(config: Config) -> bool:
    return config.flag("use_sliding_window", True)


def _every(count: int, interval: int, otherwise: str) -> tuple[str, ...]:
    """Full attention in the last layer of each ``interval``, ``otherwise`` in the rest."""
    return tuple("full_attention" if (i + 1) % interval == 0 else otherwise for i in range(count))


def _attention(config: Config, name: str, kind: str) -> Attention:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    if name in LATENT:
        return _latent(config, hidden, heads)
    if kind == "linear_attention":
        return LinearAttention(
            key_heads=config.integer("linear_num_key_heads"),
            value_heads=config.integer("linear_num_value_heads"),
            key_dim=config.integer("linear_key_head_dim"),
            value_dim=config.integer("linear_value_head_dim"),
            conv_kernel=config.integer("linear_conv_kernel_dim"),
            hidden=hidden,
        )
    if not config.has("head_dim") and hidden % heads:
        raise config.missing("head_dim")
    kv_heads = config.integer("num_key_value_heads", heads)
    head_dim = config.integer("head_dim", hidden // heads)
    shared_kv = False
    if name == "gemma4_text" and kind == "full_attention":
        kv_heads = config.integer("num_global_key_value_heads", kv_heads)
        head_dim = config.integer("global_head_dim", head_dim)
        shared_kv = config.flag("attention_k_eq_v", False)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"{kv_heads} does not divide num_attention_heads = {heads}")
    window = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}.get(kind)
    return HeadAttention(
        query_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        window=config.integer(window) if window else 0,
        gate=config.flag("attn_output_gate", name.startswith(("qwen3_next", "qwen3_5"))),
        shared_kv=shared_kv,
        bias=config.flag("attention_bias", name in ("qwen2", "qwen2_moe")),
        chunked=kind == "chunked_attention",
        norms=_head_norms(config, name),
    )


def _head_norms(config: Config, name: str) -> Literal["none", "head", "all"]:
    """Whether queries and keys are normed, as vLLM's models of that type do."""
    if name == "minimax_m2":
        return "all"
    return "head" if config.flag("use_qk_norm", name.startswith(HEADS_NORMED)) else "none"


def _latent(config: Config, hidden: int, heads: int) -> LatentAttention:
    indexer = None
    if config.has("index_topk"):
        indexer = Indexer(
            heads=config.integer("index_n_heads"),
            head_dim=config.integer("index_head_dim"),
            topk=config.integer("index_topk"),
        )
    return LatentAttention(
        query_heads=heads,
        hidden=hidden,
        q_rank=config.integer("q_lora_rank", 0),
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        v_dim=config.integer("v_head_dim"),
        indexer=indexer,
    )


def _expert_layers(config: Config, name: str, count: int) -> tuple[bool, ...]:
    """Which layers have routed experts."""
    if not any(config.has(field) for field in ("num_experts", "num_local_experts", "n_routed_experts")):
        return (False,) * count
    if name == "gemma4_text":
        return (config.flag("enable_moe_block", False),) * count
    if name == "llama4_text":
        listed = config.integers("moe_layers")
        if listed is not None:
            return tuple(i in listed for i in range(count))
        every = config.integer("interleave_moe_layer_step", 1)
        return tuple((i + 1) % every == 0 for i in range(count))
    first = config.integer("first_k_dense_replace", 0, minimum=0)
    frequency = config.integer("moe_layer_freq", 1)
    step = config.integer("decoder_sparse_step", 1)
    dense = config.integers("mlp_only_layers") or ()
    return tuple(i >= first and i % frequency == 0 and (i + 1) % step == 0 and i not in dense for i in range(count))


def _mlp(config: Config, name: str, with_experts: bool) -> Mlp:
    hidden = config.integer("hidden_size")
    if not with_experts:
        # Llama 4 names its dense layers' width apart, where intermediate_size is an expert's.
        wide = "intermediate_size_mlp" if name == "llama4_text" else "intermediate_size"
        return Mlp(hidden, dense=config.integer(wide))
    count = config.integer(config.first("num_experts", "num_local_experts", "n_routed_experts"))
    per_token = config.first("num_experts_per_tok", "top_k_experts", "experts_per_token")
    chosen = config.integer(per_token)
    if chosen > count:
        raise config.wrong(per_token, f"{chosen} experts for each token of only {count}")
    width = config.integer(config.first("moe_intermediate_size", "intermediate_size"))
    shared, gate = 0, False
    if config.has("n_shared_experts"):
        shared = width * config.integer("n_shared_experts", minimum=0)
    elif config.has("shared_expert_intermediate_size"):
        shared = config.integer("shared_expert_intermediate_size", minimum=0)
        gate = shared > 0
    elif name == "llama4_text":
        shared = width  # every expert layer has one shared expert of the same width
    return Mlp(
        hidden,
        dense=config.integer("intermediate_size") if name == "gemma4_text" else 0,
        experts=count,
        experts_per_token=chosen,
        expert=width,
        shared=shared,
        shared_gate=gate,
    )
