"""LoRA adapters as PEFT saves them, merged into the float model: W + scale B A, before anything is quantised.

Format: a folder of adapter_config.json and adapter_model.safetensors (huggingface/peft, tuners/lora/config.py
and utils/save_and_load.py). Method: Hu et al. 2021; rsLoRA's scale: Kalajdzievski 2023.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

import numpy as np
import safetensors
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import Model
from mcugen.weights import neighbouring_pairs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MATRICES = {
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
}
WHOLE = {"embed_tokens": "token_embedding_table", "lm_head": "wcls"}  # of modules_to_save

# Fields of adapter_config.json that do not change what a merged adapter computes. Of all that neither stand here nor
# are read below, only empty values are accepted.
_NEUTRAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # init_lora_weights that leave the model itself alone
_NAME = re.compile(
    r"base_model\.model\.(?:model\.)?layers\.(\d{1,4})\.(?:self_attn|mlp)\.(\w+_proj)\.lora_([AB])\.weight", re.ASCII
)
_WHOLE_NAME = re.compile(r"base_model\.model\.(?:model\.)?(embed_tokens|lm_head)\.weight", re.ASCII)
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LARGEST_RANK = 4096

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Adapter:
    scale: float  # of B A
    rank: int
    whole: frozenset[str]  # modules_to_save, of WHOLE
    targets: frozenset[str] | None  # of MATRICES; None where the file has a pattern instead of names


def merge_lora(model: Model, folder: Path) -> Model:
    """The model with a PEFT adapter merged into its weights; sha256 becomes that of model and adapter together.

    Raises InputError for whatever is wrong with the adapter, or not supported.
    """
    where = f"LoRA adapter {folder}"
    config_bytes, content = (_read(folder / name, where) for name in (CONFIG, WEIGHTS))
    adapter = _config(config_bytes, where)
    tensors = _tensors(content, where)
    deltas, whole = _sorted_out(model, adapter, tensors, where)
    weights: dict[str, NDArray[np.float32]] = dict(model.weights)
    for name, by_layer in deltas.items():
        merged = model.weights[name].astype(np.float64)
        heads = {"wq": model.config.n_heads, "wk": model.config.n_kv_heads}.get(name)
        for layer, (a, b) in by_layer.items():
            delta = adapter.scale * (b @ a) * model.factors.get(name, 1.0)
            merged[layer] += delta if heads is None else neighbouring_pairs(delta, heads)
        weights[name] = _float32(merged, name, where)
    for name, values in whole.items():
        weights[name] = _float32(values * model.factors.get(name, 1.0), name, where)
    config = model.config
    if config.shared_classifier and whole:
        if "wcls" in whole:
            config = replace(config, shared_classifier=False)
        else:
            weights["wcls"] = weights["token_embedding_table"]
    parts = (model.sha256.encode(), config_bytes, content)
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return replace(model, config=config, weights=MappingProxyType(weights), sha256=digest)


def _float32(values: Floats, name: str, where: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        tensor = values.astype(np.float32)
    if not np.isfinite(tensor).all():
        _fail(f"{name} leaves float32 once the adapter is merged", "the adapter's training diverged", where)
    tensor.setflags(write=False)
    return tensor


# ---------------------------------------------------------------- the files


def _fail(what: str, hint: str, where: str) -> NoReturn:
    raise InputError(what, where=where, hint=hint)


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path.name}: {error.strerror}",
            where=where,
            hint=f"name the folder that PEFT's save_pretrained wrote, with {CONFIG} and {WEIGHTS} in it",
        ) from error


def _config(content: bytes, where: str) -> _Adapter:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        _fail(f"{CONFIG} is not a JSON object", "save the adapter again", where)

    def check(name: str, holds: Callable[[Any], bool], allowed: str, default: object = None) -> Any:
        value = fields.pop(name, default)
        if not holds(value):
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
            _fail(f"{CONFIG} has {name} = {shown}", f"supported: {allowed}", where)
        return value

    def number(value: object) -> bool:
        return type(value) in (int, float) and 0 < abs(value) < 1e6  # type: ignore[arg-type]

    def names(known: Mapping[str, str]) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, list) and all(isinstance(v, str) and v in known for v in value)

    check("peft_type", lambda v: v == "LORA", "LORA")
    rank = check("r", lambda v: type(v) is int and 1 <= v <= _LARGEST_RANK, f"an integer from 1 to {_LARGEST_RANK}")
    alpha = check("lora_alpha", number, "a number other than 0", 8)
    root = check("use_rslora", lambda v: type(v) is bool, "true or false", False)
    check("init_lora_weights", lambda v: v in _PLAIN_STARTS, "what leaves the model itself as it was", True)
    check("bias", lambda v: v == "none", '"none"', "none")
    listed = names(MATRICES)
    targets = check("target_modules", lambda v: isinstance(v, str) or listed(v), f"any of {', '.join(MATRICES)}")
    whole = check("modules_to_save", lambda v: v is None or names(WHOLE)(v), f"any of {', '.join(WHOLE)}")
    for name in sorted(set(fields) - _NEUTRAL):
        check(name, lambda v: not v, "nothing but its absence")
    every_layer = fields.get("layers_to_transform") is None
    return _Adapter(
        scale=alpha / (math.sqrt(rank) if root else rank),
        rank=rank,
        whole=frozenset(whole or ()),
        targets=frozenset(targets) if every_layer and not isinstance(targets, str) else None,
    )


_deserialize = cast(Callable[[bytes], list[tuple[str, dict[str, Any]]]], safetensors.deserialize)


def _tensors(content: bytes, where: str) -> dict[str, Floats]:
    """Every tensor of a safetensors file as float64, checked to be finite."""
    try:
        raw = _deserialize(content)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{WEIGHTS}: the {len(content):,} bytes are not a whole safetensors file",
            where=where,
            hint="save or copy the adapter again",
        ) from error
    found = {}
    for name, entry in raw:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            _fail(f"tensor {name} is of type {entry['dtype']}", f"supported: {', '.join(_DTYPES)}", where)
        array = np.frombuffer(bytes(entry["data"]), dtype)
        if entry["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if not np.isfinite(array).all():
            _fail(f"tensor {name} holds values that are not finite", "the adapter's training diverged", where)
        found[name] = array.reshape(entry["shape"]).astype(np.float64)
    return found


_Pairs = dict[str, dict[int, tuple[Floats, Floats]]]


def _sorted_out(
    model: Model, adapter: _Adapter, tensors: Mapping[str, Floats], where: str
) -> tuple[_Pairs, dict[str, Floats]]:
    """(A, B) by weight and layer, and whole tensors by weight: all names known, all shapes right, nothing alone."""
    halves: dict[tuple[str, int], dict[str, Floats]] = {}
    whole: dict[str, Floats] = {}
    for name, values in sorted(tensors.items()):
        if (match := _NAME.fullmatch(name)) and match[2] in MATRICES and int(match[1]) < model.config.n_layers:
            weight = MATRICES[match[2]]
            if model.weights[weight].ndim != 3:
                _fail(
                    f"tensor {name} is for one matrix of a layer; this model has experts", "merge it in PEFT", where
                )
            rows, cols = model.weights[weight].shape[1:]
            expected = (adapter.rank, cols) if match[3] == "A" else (rows, adapter.rank)
            halves.setdefault((weight, int(match[1])), {})[match[3]] = values
        elif (match := _WHOLE_NAME.fullmatch(name)) and match[1] in adapter.whole:
            weight = WHOLE[match[1]]
            expected = model.weights[weight].shape
            whole[weight] = values
        else:
            _fail(f"tensor {name} matches nothing in {model.name}", "name the adapter of this very model", where)
        if values.shape != expected:
            _fail(
                f"tensor {name} is of shape {list(values.shape)}; the model asks for {list(expected)}",
                "name the adapter of this very model",
                where,
            )
    _check_complete(model, adapter, halves, whole, where)
    pairs: _Pairs = {}
    for (weight, layer), half in halves.items():
        pairs.setdefault(weight, {})[layer] = half["A"], half["B"]
    return pairs, whole


def _check_complete(
    model: Model,
    adapter: _Adapter,
    halves: Mapping[tuple[str, int], Mapping[str, Floats]],
    whole: Mapping[str, Floats],
    where: str,
) -> None:
    """Nothing is missing that the configuration announces, and there is anything at all."""
    module = {weight: name for name, weight in (MATRICES | WHOLE).items()}
    for (weight, layer), half in halves.items():
        if len(half) == 1:
            (there,) = half
            missing = "B" if there == "A" else "A"
            _fail(
                f"layer {layer} has lora_{there} of {module[weight]}, but no lora_{missing}", "save it again", where
            )
    for name in sorted(adapter.targets or ()):
        for layer in range(model.config.n_layers):
            if (MATRICES[name], layer) not in halves:
                _fail(f"layer {layer} has no adapter of {name}, which is in target_modules", "save it again", where)
    for name in sorted(adapter.whole):
        if WHOLE[name] not in whole:
            _fail(f"{name} is in modules_to_save, but not in {WEIGHTS}", "save the adapter again", where)
    if not halves and not whole:
        _fail(f"{WEIGHTS} holds no tensor", "save the adapter again", where)
