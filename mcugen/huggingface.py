"""Read a Hugging Face folder: config.json, safetensors in one file or in shards, tokenizer.json.

What each architecture computes is taken from transformers (models/*/modeling_*.py, modeling_rope_utils.py), what a
missing setting means from its configuration_*.py. Layout of the weights: github.com/huggingface/safetensors, Format.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import safetensors
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import CONFIG_LIMITS, Config, Model
from mcugen.weights import (
    MAX_EXPERTS,
    Fields,
    Naming,
    Stored,
    assemble,
    check_config,
    llama3_factors,
    shown,
)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"

_MAX_CONFIG_BYTES = 2**20
_MAX_INDEX_BYTES = 2**24
_MAX_SIZE = 2**31 - 1  # of an integer setting that no other bound knows
_FACTOR = (1e-6, 1e9)  # of a real one: beyond, a file is damaged, and float32 weights would leave their range
_THETA = (1.0, 1e12)
_DAMAGED = "save or download the model again, all files of it"

_deserialize = cast(Callable[[bytes], list[tuple[str, dict[str, Any]]]], safetensors.deserialize)


# ---------------------------------------------------------------- architectures


@dataclass(frozen=True, slots=True)
class _Family:
    """What sets an architecture apart. Of settings that its config.json may leave out, `defaults` has the values.

    activation: the setting's name. bias: the setting that switches biases of attention on, or "qkv" where queries,
    keys and values always have one and the output never. windows: "all" layers have one, or "some": those whose
    layer_types say so. gemma: gains are 1 + w, embeddings are multiplied by sqrt(dim). moe: where the experts are,
    and what their w1, w2 and w3 are called.
    """

    model_type: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    activation: str = "hidden_act"
    bias: str = "attention_bias"
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    gemma: bool = False
    windows: str = ""
    moe: tuple[str, ...] = ()


_WINDOW = {"sliding_window": 4096}
_GEMMA = {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "head_dim": 256}
_GEMMA3 = {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "head_dim": 256, **_WINDOW}
FAMILIES = {
    "LlamaForCausalLM": _Family("llama", mlp_bias=True),
    "MistralForCausalLM": _Family("mistral", _WINDOW, bias="", windows="all"),
    "MixtralForCausalLM": _Family(
        "mixtral", {"rope_theta": 1e6}, bias="", windows="all", moe=("block_sparse_moe", "w1", "w2", "w3")
    ),
    "Qwen2ForCausalLM": _Family("qwen2", _WINDOW, bias="qkv", windows="some"),
    "Qwen3ForCausalLM": _Family("qwen3", {"head_dim": 128, **_WINDOW}, qk_norm=True, windows="some"),
    "Qwen3MoeForCausalLM": _Family("qwen3_moe", qk_norm=True, moe=("mlp", "gate_proj", "down_proj", "up_proj")),
    "GemmaForCausalLM": _Family("gemma", _GEMMA, gemma=True),
    "Gemma3ForCausalLM": _Family(
        "gemma3_text",
        _GEMMA3,
        activation="hidden_activation",
        qk_norm=True,
        post_norms=True,
        gemma=True,
        windows="some",
    ),
    "GraniteForCausalLM": _Family("granite", mlp_bias=True),
    "SmolLM3ForCausalLM": _Family(
        "smollm3", {"rope_theta": 2e6, "tie_word_embeddings": True}, mlp_bias=True, windows="some"
    ),
}

# transformers' name of an activation -> ours. gelu_new and gelu_fast write the same formula in other words.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}

# Settings that change what any of these architectures computes, with the values at which they do not.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "partial_rotary_factor": (1.0, 1),
    "quantization_config": (),
    "use_bidirectional_attention": (False,),
    "is_encoder_decoder": (False,),
    "auto_map": (),  # code that comes with the model
    "shared_expert_intermediate_size": (0,),
    "n_shared_experts": (0,),
}


# ---------------------------------------------------------------- read


def read_huggingface(folder: Path, max_vocab: int = CONFIG_LIMITS["vocab_size"]) -> Model:
    """Read a folder that transformers' save_pretrained wrote; its tensors may be F32, F16 or BF16.

    max_vocab: tokens at most; more than the firmware holds is for who takes some of them out. Pickles are never
    read. sha256 is of config.json, the index if there is one, and every file of weights. Raises InputError.
    """
    where = f"Hugging Face folder {folder}"
    digest = hashlib.sha256()
    content = _read(folder / CONFIG, where, _MAX_CONFIG_BYTES)
    digest.update(hashlib.sha256(content).digest())
    tensors: dict[str, _Tensor] = {}
    index, files = _weight_files(folder, where)
    digest.update(hashlib.sha256(index).digest())
    for name, promised in files.items():
        shard = _read(folder / name, where)
        digest.update(hashlib.sha256(shard).digest())
        found = _safetensors(shard, f"{where}, {name}")
        _check_shard(found, promised, name, where)
        tensors |= found
    table = tensors.get("model.embed_tokens.weight")
    settings = json_object(content, f"{where}, {CONFIG}")
    config, naming = _parse_config(settings, f"{where}, {CONFIG}", table.dtype if table else "F32", max_vocab)
    stored = {name: Stored(tensor.shape, tensor.values) for name, tensor in tensors.items()}
    if config.shared_classifier and not _same(tensors.get("lm_head.weight"), table):
        raise InputError(
            "lm_head.weight differs from model.embed_tokens.weight, but tie_word_embeddings says they are the same",
            where=where,
            hint="set tie_word_embeddings to false if the model was trained with a classifier of its own",
        )
    weights = assemble(config, naming, stored, where)
    return Model(folder.resolve().name, config, weights, digest.hexdigest(), naming.factors)


def special_ids(folder: Path, vocab_size: int) -> tuple[int | None, int | None]:
    """The ids of bos and eos as config.json has them; the first eos of several. None where there is none."""
    where = f"Hugging Face folder {folder}"
    settings = json_object(_read(folder / CONFIG, where, _MAX_CONFIG_BYTES), f"{where}, {CONFIG}")
    found: list[int | None] = []
    for name in ("bos_token_id", "eos_token_id"):
        value = settings.get(name)
        first = value[0] if isinstance(value, list) and value else value
        fields = Fields({name: first}, f"{where}, {CONFIG}")
        found.append(None if first is None else fields.integer(name, 0, vocab_size - 1))
    return found[0], found[1]


def tokenizer_file(folder: Path) -> Path:
    """The folder's tokenizer.json. Raises InputError where it is not there."""
    path = folder / TOKENIZER
    if not path.is_file():
        other = (folder / "tokenizer.model").is_file()
        raise InputError(
            f"the folder has {'a tokenizer.model, but ' if other else ''}no {TOKENIZER}",
            where=f"Hugging Face folder {folder}",
            hint="transformers writes it: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER); "
            "or name one with --tokenizer",
        )
    return path


def _read(path: Path, where: str, limit: int | None = None) -> bytes:
    """A file's content; of `limit` bytes at most."""
    try:
        if limit is not None and path.stat().st_size > limit:
            raise InputError(
                f"{path.name} has {path.stat().st_size:,} bytes; {limit:,} are read at most",
                where=where,
                hint=_DAMAGED,
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path.name}: {error.strerror}",
            where=where,
            hint=f"a Hugging Face folder has {CONFIG}, {WEIGHTS} (or {INDEX} and its files) and {TOKENIZER}",
        ) from error


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a file: no name twice, no NaN, no numbers of thousands of digits. Raises InputError."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number")

    try:
        value = json.loads(content, object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        raise InputError("the JSON is nested too deeply", where=where, hint=_DAMAGED) from None
    except ValueError as error:
        raise InputError(f"the file is not JSON as it should be: {error}", where=where, hint=_DAMAGED) from None
    if not isinstance(value, dict):
        raise InputError(f"the file holds {shown(value)}, no JSON object", where=where, hint=_DAMAGED)
    return value


# ---------------------------------------------------------------- weights


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> NDArray[np.float32]:
        """As float32, which holds every F16 and BF16 value."""
        if self.dtype == "BF16":
            flat = (np.frombuffer(self.data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            flat = np.frombuffer(self.data, _DTYPES[self.dtype]).astype(np.float32)
        return flat.reshape(self.shape)


_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _safetensors(content: bytes, where: str) -> dict[str, _Tensor]:
    """The tensors of one file. The library checks that they are whole, apart, and leave no gap."""
    try:
        raw = _deserialize(content)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"the {len(content):,} bytes are not a whole safetensors file: {error}", where=where, hint=_DAMAGED
        ) from error
    tensors = {}
    for name, entry in raw:
        if entry["dtype"] not in _DTYPES:
            raise InputError(
                f"the tensor {name} is of type {entry['dtype']}",
                where=where,
                hint=f"save the model in one of the types {', '.join(_DTYPES)}",
            )
        tensors[name] = _Tensor(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
    return tensors


def _weight_files(folder: Path, where: str) -> tuple[bytes, dict[str, set[str] | None]]:
    """The index (empty where there is none), and the files of weights with the tensors that it promises of each."""
    if (folder / WEIGHTS).is_file():
        return b"", {WEIGHTS: None}
    if not (folder / INDEX).is_file():
        _fail_without_weights(folder, where)
    content = _read(folder / INDEX, where, _MAX_INDEX_BYTES)
    spot = f"{where}, {INDEX}"
    places = json_object(content, spot).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"weight_map is {shown(places)}", where=spot, hint="it must name the file of each tensor")
    files: dict[str, set[str] | None] = {}
    for tensor, file in sorted(places.items()):
        plain = isinstance(file, str) and file.isascii() and file.isprintable() and not set(file) & set("/\\:")
        if not plain or not file.endswith(".safetensors"):
            raise InputError(
                f"the tensor {shown(tensor)} is in {shown(file)}",
                where=spot,
                hint="it must be the name of a .safetensors file in the same folder",
            )
        promised = files.setdefault(file, set())
        assert promised is not None
        promised.add(tensor)
    return content, dict(sorted(files.items()))


def _fail_without_weights(folder: Path, where: str) -> NoReturn:
    try:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    except OSError:
        others = []
    if others:
        raise InputError(
            f"the folder has its weights in {shown(others[0])}, a pickle, which is never read: it could run any code",
            where=where,
            hint="save them as safetensors, where you trust them: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True)",
        )
    raise InputError(
        f"the folder has neither {WEIGHTS} nor {INDEX}", where=where, hint="download the model again, all files of it"
    )


def _check_shard(found: Mapping[str, _Tensor], promised: set[str] | None, name: str, where: str) -> None:
    """Refuse a file that has other tensors than the index says."""
    if promised is None:
        return
    for tensor in sorted(promised - set(found)):
        raise InputError(f"{INDEX} says that {shown(tensor)} is in {name}: it is not", where=where, hint=_DAMAGED)
    for tensor in sorted(set(found) - promised):
        raise InputError(f"{name} has {tensor}, and {INDEX} does not say so", where=where, hint=_DAMAGED)


def _same(head: _Tensor | None, table: _Tensor | None) -> bool:
    """Whether a classifier that is stored all the same is the embedding table (or none is stored)."""
    return head is None or (
        table is not None and (head.dtype, head.shape, head.data) == (table.dtype, table.shape, table.data)
    )


# ---------------------------------------------------------------- settings


def _parse_config(settings: Mapping[str, Any], where: str, stored_as: str, max_vocab: int) -> tuple[Config, Naming]:
    """What config.json says, and under which names its weights are. stored_as: type of the embedding table."""
    family = _family(settings, where)
    fields = Fields({**family.defaults, **settings}, where, "")
    for name, values in _NEUTRAL.items():
        fields.only(name, *values)
    n_heads = fields.integer("num_attention_heads", 1, CONFIG_LIMITS["n_heads"])
    config = Config(
        dim=fields.integer("hidden_size", 1, CONFIG_LIMITS["dim"]),
        hidden_dim=fields.integer(
            "moe_intermediate_size" if family.model_type == "qwen3_moe" else "intermediate_size",
            1,
            CONFIG_LIMITS["hidden_dim"],
        ),
        n_layers=fields.integer("num_hidden_layers", 1, CONFIG_LIMITS["n_layers"]),
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads", 1, CONFIG_LIMITS["n_kv_heads"], n_heads),
        vocab_size=fields.integer("vocab_size", 1, _MAX_SIZE),
        seq_len=fields.integer("max_position_embeddings", 1, CONFIG_LIMITS["seq_len"]),
        shared_classifier=fields.flag("tie_word_embeddings", False),
        norm_eps=fields.number("rms_norm_eps", 0, 1, 1e-6),
        head_size=_head_size(fields, n_heads),
        activation=_ACTIVATIONS[fields.choice(family.activation, _ACTIVATIONS, "silu")],
        attention_bias=_has_bias(family, fields),
        mlp_bias=family.mlp_bias and fields.flag("mlp_bias", False),
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
    )
    if family.gemma and config.activation == "gelu":
        config = replace(config, activation="gelu_tanh")  # what early Gemma files mean by it
    if family.moe:
        config = _with_experts(config, family, fields)
    config = _with_windows(config, family, fields)
    config = _with_rope(check_config(config, where, max_vocab), family, fields, where)
    config, factors = _scaled(config, family, fields, stored_as)
    return config, _naming(config, family, factors)


def _family(settings: Mapping[str, Any], where: str) -> _Family:
    names = settings.get("architectures")
    if names is None:  # what is written before a model was ever saved with its head
        names = [name for name, family in FAMILIES.items() if family.model_type == settings.get("model_type")]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str) or names[0] not in FAMILIES:
        raise InputError(
            f"architectures is {shown(settings.get('architectures'))}, "
            f"model_type {shown(settings.get('model_type'))}",
            where=where,
            hint=f"supported: {', '.join(FAMILIES)}",
        )
    return FAMILIES[names[0]]


def _head_size(fields: Fields, n_heads: int) -> int:
    """Config.head_size: 0 where heads share the model's width evenly."""
    if "head_dim" not in fields:
        return 0
    dim = fields.integer("hidden_size", 1, CONFIG_LIMITS["dim"])
    size = fields.integer("head_dim", 1, CONFIG_LIMITS["dim"])
    return 0 if size * n_heads == dim else size


def _has_bias(family: _Family, fields: Fields) -> bool:
    if family.bias == "qkv":
        return True
    return bool(family.bias) and fields.flag(family.bias, False)


def _with_experts(config: Config, family: _Family, fields: Fields) -> Config:
    """A mixture of experts in every layer, its weights a softmax over those chosen."""
    count = "num_local_experts" if family.model_type == "mixtral" else "num_experts"
    if family.model_type == "qwen3_moe":
        fields.only("decoder_sparse_step", 1)
        fields.only("mlp_only_layers", [])
        fields.only("use_sliding_window", False)
        if not fields.flag("norm_topk_prob", False):
            fields.fail("norm_topk_prob", "true: the chosen experts' weights sum to 1")
    return replace(
        config,
        n_experts=fields.integer(count, 1, MAX_EXPERTS),
        experts_per_token=fields.integer("num_experts_per_tok", 1, MAX_EXPERTS),
    )


def _with_windows(config: Config, family: _Family, fields: Fields) -> Config:
    """The sliding windows of layers. One that spans the trained context hides nothing and is none.

    (Gemma 3 keeps it: it turns the layers that have one by another base.)
    """
    layers = config.n_layers
    if not family.windows:
        return config
    some = family.windows == "some"
    used = family.gemma or not some or fields.flag("use_sliding_window", False)
    size = fields.integer("sliding_window", 1, _MAX_SIZE, 0) if used and "sliding_window" in fields else 0
    sliding = _sliding_layers(config, family, fields, size) if some else [True] * layers
    if family.gemma and any(sliding) and not size:
        fields.fail("sliding_window", "a number of tokens where layer_types has sliding_attention")
    if not family.gemma and size >= config.seq_len:
        size = 0
    size = min(size, config.seq_len)
    windows = tuple(size if slides else 0 for slides in sliding)
    return replace(config, layer_windows=windows if any(windows) else ())


def _sliding_layers(config: Config, family: _Family, fields: Fields, size: int) -> list[bool]:
    """Which layers layer_types gives a window, or by which rule where it is missing."""
    layers = config.n_layers
    if "layer_types" in fields:
        types = fields.get("layer_types")
        if (
            not isinstance(types, list)
            or len(types) != layers
            or any(kind not in ("full_attention", "sliding_attention") for kind in types)
        ):
            fields.fail("layer_types", f"a list of {layers} of full_attention and sliding_attention")
        return [kind == "sliding_attention" for kind in types]
    if family.gemma:
        pattern = fields.integer("sliding_window_pattern", 1, _MAX_SIZE, 6)
        return [bool((layer + 1) % pattern) for layer in range(layers)]
    if family.model_type == "smollm3":
        return [False] * layers  # windows would be in the layers without RoPE, and those are refused
    first = fields.integer("max_window_layers", 0, _MAX_SIZE, 28)
    return [bool(size) and layer >= first for layer in range(layers)]


def _with_rope(config: Config, family: _Family, fields: Fields, where: str) -> Config:
    """Bases and factors of RoPE, from rope_scaling and rope_theta or the newer rope_parameters."""
    if family.model_type == "smollm3":
        _check_all_rope(config, fields)
    name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    given = fields.get(name)
    if given is None:
        given = {}
    if not isinstance(given, dict):
        fields.fail(name, "a JSON object")
    local: dict[str, Any] = {}
    spot = f"{where}, {name}"
    if family.model_type == "gemma3_text" and name == "rope_parameters" and given:
        local, given = (_nested(given, kind, spot) for kind in ("sliding_attention", "full_attention"))
        Fields(local, f"{spot}.sliding_attention").only("rope_type", "default")
    rope = Fields(given, spot)
    theta = _theta(rope, fields, "rope_theta", 1e6 if family.model_type == "gemma3_text" else 1e4)
    config = replace(config, rope_theta=theta)
    if family.model_type == "gemma3_text" and config.layer_windows:
        local_theta = _theta(Fields(local, spot), fields, "rope_local_base_freq", 1e4)
        config = replace(config, local_rope_theta=local_theta)
    factors = _rope_factors(config, rope)
    if factors and config.layer_windows and family.model_type != "gemma3_text":
        raise InputError(
            f"{name} scales RoPE in layers with a sliding window of {max(config.layer_windows):,} tokens",
            where=where,
            hint="scaling is supported in layers without a window: max_position_embeddings up to the window has none",
        )
    return replace(config, rope_factors=factors)


def _check_all_rope(config: Config, fields: Fields) -> None:
    """Refuse layers without RoPE."""
    every = fields.integer("no_rope_layer_interval", 1, _MAX_SIZE, 4)
    ones = [1] * config.n_layers
    if "no_rope_layers" in fields:
        if fields.get("no_rope_layers") != ones:
            fields.fail("no_rope_layers", "1 for each layer: layers without RoPE are not supported")
    elif every <= config.n_layers:
        fields.fail("no_rope_layers", "1 for each layer: layers without RoPE are not supported")


def _nested(given: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    part = given.get(kind, {})
    if not isinstance(part, dict) or not set(given) <= {"sliding_attention", "full_attention"}:
        Fields(given, where).fail(kind, "a JSON object; Gemma 3 has one for each kind of layer and nothing else")
    return part


def _theta(rope: Fields, fields: Fields, outside: str, default: float) -> float:
    """The base of RoPE: in its own object, else beside it."""
    if "rope_theta" in rope:
        return rope.number("rope_theta", *_THETA)
    return fields.number(outside, *_THETA, default)


def _rope_factors(config: Config, rope: Fields) -> tuple[float, ...]:
    rope.only("partial_rotary_factor", 1.0, 1)
    kind = rope.choice("rope_type" if "rope_type" in rope else "type", ("default", "linear", "llama3"), "default")
    if kind == "default":
        return ()
    factor = rope.number("factor", *_FACTOR)
    if kind == "linear":
        return (factor,) * (config.head_dim // 2)
    low, high = rope.number("low_freq_factor", *_FACTOR), rope.number("high_freq_factor", *_FACTOR)
    if low >= high:
        rope.fail("low_freq_factor", f"below high_freq_factor {high:g}")
    trained = rope.integer("original_max_position_embeddings", 1, _MAX_SIZE, config.seq_len)
    return llama3_factors(config, factor, low, high, trained)


def _scaled(config: Config, family: _Family, fields: Fields, stored_as: str) -> tuple[Config, dict[str, float]]:
    """Factors of embeddings and logits, and those that are folded into weights, by name."""
    if family.model_type == "gemma3_text":
        scalar = fields.number("query_pre_attn_scalar", *_FACTOR, 256)
        config = replace(config, embedding_scale=_rounded(math.sqrt(config.dim), stored_as))
        return config, {"q_norm": math.sqrt(config.head_dim / scalar)}  # scores are divided by sqrt(head_dim)
    if family.gemma:
        return replace(config, embedding_scale=_rounded(math.sqrt(config.dim), stored_as)), {}
    if family.model_type != "granite":
        return config, {}
    config = replace(
        config,
        embedding_scale=fields.number("embedding_multiplier", *_FACTOR, 1.0),
        logit_scale=1 / fields.number("logits_scaling", *_FACTOR, 1.0),
    )
    scores = fields.number("attention_multiplier", *_FACTOR, 1.0) * math.sqrt(config.head_dim)
    residual = fields.number("residual_multiplier", *_FACTOR, 1.0)
    return config, dict.fromkeys(("wq", "bq"), scores) | dict.fromkeys(("wo", "bo", "w2", "b2"), residual)


def _rounded(value: float, dtype: str) -> float:
    """A number as transformers keeps it beside weights of a type: Gemma's embedding scale is rounded to it."""
    if dtype == "BF16":
        bits = int(np.float32(value).view(np.uint32))
        return float(np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32))
    return float(np.float16(value) if dtype == "F16" else np.float32(value))


_LAYER = "model.layers.{layer}."
_NAMES = {
    "token_embedding_table": "model.embed_tokens.weight",
    "rms_final_weight": "model.norm.weight",
    "wcls": "lm_head.weight",
    "rms_att_weight": _LAYER + "input_layernorm.weight",
    "rms_ffn_weight": _LAYER + "post_attention_layernorm.weight",
    "q_norm": _LAYER + "self_attn.q_norm.weight",
    "k_norm": _LAYER + "self_attn.k_norm.weight",
}
_NAMES |= {
    f"{weight}{one}": f"{_LAYER}self_attn.{one}_proj.{part}"
    for one in "qkvo"
    for weight, part in (("w", "weight"), ("b", "bias"))
}
_NAMES |= {
    f"{weight}{number}": f"{_LAYER}mlp.{name}_proj.{part}"
    for number, name in ((1, "gate"), (2, "down"), (3, "up"))
    for weight, part in (("w", "weight"), ("b", "bias"))
}


def _naming(config: Config, family: _Family, factors: Mapping[str, float]) -> Naming:
    names = dict(_NAMES)
    if family.post_norms:
        names["post_att_weight"] = _NAMES["rms_ffn_weight"]
        names["rms_ffn_weight"] = _LAYER + "pre_feedforward_layernorm.weight"
        names["post_ffn_weight"] = _LAYER + "post_feedforward_layernorm.weight"
    if family.moe:
        block, *experts = family.moe
        names["router"] = f"{_LAYER}{block}.gate.weight"
        names |= {f"w{i}": f"{_LAYER}{block}.experts.{{expert}}.{name}.weight" for i, name in enumerate(experts, 1)}

    def ignored(name: str) -> bool:
        """The classifier where it is the embedding table (_same), and RoPE's frequencies in old files."""
        return name.endswith(".rotary_emb.inv_freq") or (config.shared_classifier and name == "lm_head.weight")

    return Naming(
        names=names,
        halves=True,
        unit_norms=family.gemma,
        zeros=("bo",) if family.bias == "qkv" else (),
        factors=factors,
        ignored=ignored,
    )
