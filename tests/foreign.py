"""Tiny models in the formats of others: their config.json, and weights drawn from a seed under their tensors' names.

Shapes and names are written down here once more, after transformers: nothing of mcugen's readers is used.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

_SIZES = {
    "vocab_size": 19,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 0,
}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
_GRANITE = {"embedding_multiplier": 6.0, "logits_scaling": 4.0, "residual_multiplier": 0.22}


def _case(architecture: str, model_type: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, **_SIZES, **more}


CASES: dict[str, dict[str, Any]] = {
    "llama": _case("LlamaForCausalLM", "llama", tie_word_embeddings=False, rope_theta=10000.0, hidden_act="silu"),
    "llama3": _case(
        "LlamaForCausalLM", "llama", tie_word_embeddings=True, rope_theta=500.0, head_dim=8,
        rope_scaling={"rope_type": "llama3", **_LLAMA3},
    ),
    "llama_bias": _case(
        "LlamaForCausalLM", "llama", attention_bias=True, mlp_bias=True, hidden_act="gelu", num_key_value_heads=None,
        rope_scaling={"type": "linear", "factor": 2.5},
    ),
    "llama_relu2": _case(
        "LlamaForCausalLM", "llama", hidden_act="relu2", rope_parameters={"rope_type": "default", "rope_theta": 77.0}
    ),
    "mistral": _case("MistralForCausalLM", "mistral", sliding_window=5, head_dim=10, tie_word_embeddings=False),
    "qwen2": _case(
        "Qwen2ForCausalLM", "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1,
        tie_word_embeddings=True, rope_theta=1e6, bos_token_id=None, hidden_act="relu",
    ),
    "qwen3": _case(
        "Qwen3ForCausalLM", "qwen3", head_dim=16, attention_bias=True, use_sliding_window=True, sliding_window=6,
        layer_types=["sliding_attention", "full_attention"], rope_theta=1e6,
    ),
    "qwen3_moe": _case(
        "Qwen3MoeForCausalLM", "qwen3_moe", head_dim=6, num_experts=4, num_experts_per_tok=3, norm_topk_prob=True,
        moe_intermediate_size=12, decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "gemma": _case("GemmaForCausalLM", "gemma", head_dim=8, num_key_value_heads=1, hidden_act="gelu"),
    "gemma3": _case(
        "Gemma3ForCausalLM", "gemma3_text", head_dim=8, query_pre_attn_scalar=20, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 900.0},
        },
    ),
    "gemma3_old": _case(
        "Gemma3ForCausalLM", "gemma3_text", head_dim=8, query_pre_attn_scalar=8, sliding_window=3,
        sliding_window_pattern=2, rope_theta=900.0, rope_local_base_freq=30.0,
        rope_scaling={"rope_type": "linear", "factor": 2.0}, hidden_activation="gelu_pytorch_tanh",
    ),
    "mixtral": _case("MixtralForCausalLM", "mixtral", num_local_experts=3, num_experts_per_tok=2, sliding_window=None),
    "granite": _case(
        "GraniteForCausalLM", "granite", attention_multiplier=0.3, attention_bias=True, tie_word_embeddings=True,
        **_GRANITE,
    ),
    "smollm3": _case("SmolLM3ForCausalLM", "smollm3", no_rope_layers=[1, 1], rope_theta=2e6),
}  # fmt: skip

TOKENS = np.array([3, 7, 1, 18, 7, 7, 12, 5, 0, 9])


def shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that transformers stores for a config.json, by name."""
    kind = settings["model_type"]
    dim, hidden, heads = settings["hidden_size"], settings["intermediate_size"], settings["num_attention_heads"]
    kv_heads = settings["num_key_value_heads"] or heads
    head = settings.get("head_dim") or dim // heads
    bias, mlp_bias = settings.get("attention_bias", kind == "qwen2"), settings.get("mlp_bias", False)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (settings["vocab_size"], dim)}
    found["model.norm.weight"] = (dim,)
    if not settings.get("tie_word_embeddings", kind.startswith("gemma") or kind == "smollm3"):
        found["lm_head.weight"] = (settings["vocab_size"], dim)
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind == "gemma3_text":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        found |= {f"{at}{norm}.weight": (dim,) for norm in norms}
        for name, rows, cols in (
            ("q", heads * head, dim), ("k", kv_heads * head, dim), ("v", kv_heads * head, dim), ("o", dim, heads * head),
        ):  # fmt: skip
            found[f"{at}self_attn.{name}_proj.weight"] = (rows, cols)
            if bias and (name != "o" or kind != "qwen2"):
                found[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            found |= {f"{at}self_attn.{name}_norm.weight": (head,) for name in "qk"}
        matrices = (("gate", hidden, dim), ("up", hidden, dim), ("down", dim, hidden))
        if kind == "mixtral":
            found[f"{at}block_sparse_moe.gate.weight"] = (settings["num_local_experts"], dim)
            for expert in range(settings["num_local_experts"]):
                for name, (_, rows, cols) in zip(("w1", "w3", "w2"), matrices, strict=True):
                    found[f"{at}block_sparse_moe.experts.{expert}.{name}.weight"] = (rows, cols)
        elif kind == "qwen3_moe":
            small = settings["moe_intermediate_size"]
            found[f"{at}mlp.gate.weight"] = (settings["num_experts"], dim)
            for expert in range(settings["num_experts"]):
                at_expert = f"{at}mlp.experts.{expert}."
                found |= {f"{at_expert}{name}_proj.weight": (small, dim) for name in ("gate", "up")}
                found[f"{at_expert}down_proj.weight"] = (dim, small)
        else:
            for name, rows, cols in matrices:
                found[f"{at}mlp.{name}_proj.weight"] = (rows, cols)
                if mlp_bias:
                    found[f"{at}mlp.{name}_proj.bias"] = (rows,)
    return found


def tensors(settings: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 weights for a config.json; each keeps the variance of its input, gains are near 1 (0 for Gemma)."""
    rng = np.random.default_rng(seed)
    gain = 0.0 if settings["model_type"].startswith("gemma") else 1.0
    found = {}
    for name, shape in sorted(shapes(settings).items()):
        if name.endswith("norm.weight"):
            values = gain + rng.normal(0, 0.2, shape)
        elif name.endswith(".bias"):
            values = rng.normal(0, 0.3, shape)
        else:
            values = rng.normal(0, 1.5 / np.sqrt(shape[-1]), shape)
        found[name] = values.astype(np.float32)
    return found


def safetensors(found: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A file of (dtype, shape, bytes) by name, laid out by hand."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in found.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in found.values())


def stored(array: np.ndarray, dtype: str = "F32") -> tuple[str, list[int], bytes]:
    """A tensor as a file has it; BF16 cuts the lower half of a float32 off."""
    if dtype == "BF16":
        data = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = array.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    return dtype, list(array.shape), data


def write_folder(folder: Path, settings: dict[str, Any], seed: int = 0, dtype: str = "F32") -> Path:
    """config.json and model.safetensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    found = {name: stored(tensor, dtype) for name, tensor in tensors(settings, seed).items()}
    (folder / "model.safetensors").write_bytes(safetensors(found))
    return folder


# ---------------------------------------------------------------- GGUF


def gguf_tensors(settings: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """The same weights as llama.cpp's convert_hf_to_gguf.py names and stores them."""
    kind = settings["model_type"]
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "block_sparse_moe.gate": "ffn_gate_inp", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    if kind == "gemma3_text":
        names["post_attention_layernorm"] = "post_attention_norm"
        names |= {"pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
    found: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    for name, tensor in sorted(tensors(settings, seed).items()):
        stem, part = name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        if ".experts." in stem:
            title = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}[stem[-2:]]
            experts.setdefault(f"{prefix}{title}.weight", []).append(tensor)
            continue
        if kind in ("llama", "mistral", "mixtral", "granite") and stem.endswith(("q_proj", "k_proj")):
            count = heads if stem.endswith("q_proj") else kv_heads or heads
            tensor = tensor.reshape(count, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        if kind.startswith("gemma") and stem.endswith("norm"):
            tensor = tensor + 1
        found[f"{prefix}{names[stem]}.{part}"] = tensor
    return found | {name: np.stack(parts) for name, parts in experts.items()}


def gguf_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The header that convert_hf_to_gguf.py writes for a config.json, without the vocabulary."""
    arch = {"mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3"}.get(
        settings["model_type"], settings["model_type"]
    )
    heads = settings["num_attention_heads"]
    head = settings.get("head_dim") or settings["hidden_size"] // heads
    found = {
        "block_count": settings["num_hidden_layers"], "context_length": settings["max_position_embeddings"],
        "embedding_length": settings["hidden_size"], "feed_forward_length": settings["intermediate_size"],
        "attention.head_count": heads, "attention.head_count_kv": settings["num_key_value_heads"] or heads,
        "attention.layer_norm_rms_epsilon": settings["rms_norm_eps"], "attention.key_length": head,
        "attention.value_length": head, "rope.dimension_count": head, "vocab_size": settings["vocab_size"],
    }  # fmt: skip
    if "rope_theta" in settings:
        found["rope.freq_base"] = float(settings["rope_theta"])
    if settings.get("rope_scaling", {}).get("factor") and "low_freq_factor" not in settings["rope_scaling"]:
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": settings["rope_scaling"]["factor"]}
    if "num_local_experts" in settings:
        found |= {"expert_count": settings["num_local_experts"], "expert_used_count": settings["num_experts_per_tok"]}
    if arch == "gemma3":
        found["attention.sliding_window"] = settings["sliding_window"]
        found["attention.sliding_window_pattern"] = settings.get("sliding_window_pattern", 6)
        found["rope.freq_base_swa"] = settings["rope_local_base_freq"]
    if arch == "granite":
        found |= {
            "embedding_scale": settings["embedding_multiplier"], "logit_scale": settings["logits_scaling"],
            "residual_scale": settings["residual_multiplier"], "attention.scale": settings["attention_multiplier"],
        }  # fmt: skip
    return {"general.architecture": arch, "general.name": "x"} | {
        f"{arch}.{name}": value for name, value in found.items()
    }


def write_gguf(
    path: Path,
    settings: dict[str, Any],
    stored: dict[str, tuple[np.ndarray, Any]],
    arrays: dict[str, Any] | None = None,
) -> Path:
    """A file by the gguf package's writer. stored: values and, of a quantised tensor, its type; arrays: settings."""
    import gguf

    writer = gguf.GGUFWriter(path, settings["general.architecture"])
    for name, value in settings.items():
        if name == "general.architecture":
            continue
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](name, value)
    for name, values in (arrays or {}).items():
        writer.add_array(name, values)
    for name, (values, kind) in stored.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
