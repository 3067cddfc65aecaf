"""LoRA adapters: merged as an independent numpy merge says, and every malformed or foreign one refused by name."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import zoo

from mcugen.errors import InputError
from mcugen.huggingface import read_huggingface
from mcugen.ir import Model
from mcugen.lora import merge_lora
from mcugen.reference import FloatDecoder

CONFIG = zoo.SHAPES["gqa"]  # 6 query heads over 2 KV heads of 8, 2 layers
RANK, ALPHA = 3, 6
PLACES = {
    "self_attn.q_proj": "wq",
    "self_attn.k_proj": "wk",
    "self_attn.v_proj": "wv",
    "self_attn.o_proj": "wo",
    "mlp.gate_proj": "w1",
    "mlp.up_proj": "w3",
    "mlp.down_proj": "w2",
}
Tensors = dict[str, np.ndarray]


def adapter(model: Model, places: tuple[str, ...] = tuple(PLACES), seed: int = 0) -> tuple[dict[str, Any], Tensors]:
    """The settings and tensors of a random adapter, as PEFT names them."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for place in places:
        rows, cols = model.weights[PLACES[place]].shape[1:]
        for layer in range(model.config.n_layers):
            name = f"base_model.model.model.layers.{layer}.{place}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(0, 0.3, (RANK, cols)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = rng.normal(0, 0.3, (rows, RANK)).astype(np.float32)
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": [place.split(".")[1] for place in places],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.05,
        "base_model_name_or_path": "some/model",
        "task_type": "CAUSAL_LM",
        "modules_to_save": None,
        "rank_pattern": {},
        "use_dora": False,
    }
    return settings, tensors


def write(folder: Path, settings: object, tensors: Tensors, dtypes: dict[str, str] | None = None) -> Path:
    """A folder as save_pretrained writes it; the safetensors frame by hand."""
    header, data = {}, b""
    for name, array in tensors.items():
        dtype = (dtypes or {}).get(name, "F32")
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def pairs_together(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Row j of a head and row j + head_dim / 2 become rows 2 j and 2 j + 1."""
    order = [
        head + j + half * head_dim // 2
        for head in range(0, len(rows), head_dim)
        for j in range(head_dim // 2)
        for half in range(2)
    ]
    return rows[order]


def merged_by_hand(model: Model, tensors: Tensors, scale: float) -> dict[str, np.ndarray]:
    weights = {name: values.astype(np.float64) for name, values in model.weights.items()}
    for place, weight in PLACES.items():
        for layer in range(model.config.n_layers):
            name = f"base_model.model.model.layers.{layer}.{place}"
            if f"{name}.lora_A.weight" not in tensors:
                continue
            a, b = (tensors[f"{name}.lora_{half}.weight"].astype(np.float64) for half in "AB")
            delta = scale * np.einsum("or,ri->oi", b, a)
            weights[weight][layer] += pairs_together(delta, 8) if weight in ("wq", "wk") else delta
    return weights


@pytest.mark.parametrize(
    ("extra", "scale"), [({}, 2.0), ({"use_rslora": True}, 6 / 3**0.5), ({"lora_alpha": 1.5}, 0.5)]
)
def test_merged_as_by_hand(tmp_path: Path, extra: dict[str, Any], scale: float) -> None:
    model = zoo.model_of(CONFIG)
    settings, tensors = adapter(model)
    merged = merge_lora(model, write(tmp_path / "a", settings | extra, tensors))
    expected = merged_by_hand(model, tensors, scale)
    for name, values in merged.weights.items():
        assert np.array_equal(values, expected[name].astype(np.float32)), name
        assert not values.flags.writeable
    assert merged.config == model.config


def test_a_forward_pass_adds_the_low_rank_path(tmp_path: Path) -> None:
    """o = W x + scale B (A x) per matrix: the merged model against a decoder that does it unmerged."""
    model = zoo.model_of(CONFIG)
    settings, tensors = adapter(model)
    merged = merge_lora(model, write(tmp_path / "a", settings, tensors))

    class Unmerged(FloatDecoder):
        def _linear(self, name, layer, h, bias=""):  # type: ignore[no-untyped-def]
            place = next(place for place, weight in PLACES.items() if weight == name)
            a, b = (tensors[f"base_model.model.model.layers.{layer}.{place}.lora_{half}.weight"] for half in "AB")
            path = 2.0 * (h @ a.T.astype(np.float64)) @ b.T.astype(np.float64)
            if name in ("wq", "wk"):
                path = pairs_together(path.transpose(2, 0, 1), 8).transpose(1, 2, 0)
            return super()._linear(name, layer, h, bias) + path

    tokens = zoo.random_tokens(CONFIG, 12)[None]
    assert np.allclose(FloatDecoder(merged).forward(tokens), Unmerged(model).forward(tokens), rtol=0, atol=2e-5)


def test_scores_are_those_of_rotated_halves() -> None:
    """Hugging Face turns value j of a head with value j + head_dim / 2: the same scores from rows in our order."""
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 8))
    angle = rng.normal(size=(2, 4))

    def halves(x: np.ndarray, turn: np.ndarray) -> np.ndarray:
        low, high = x[:4], x[4:]
        return np.concatenate([low * np.cos(turn) - high * np.sin(turn), low * np.sin(turn) + high * np.cos(turn)])

    def neighbours(x: np.ndarray, turn: np.ndarray) -> np.ndarray:
        even, odd = x[0::2], x[1::2]
        return np.stack(
            [even * np.cos(turn) - odd * np.sin(turn), even * np.sin(turn) + odd * np.cos(turn)], -1
        ).ravel()

    ours = neighbours(pairs_together(q, 8), angle[0]) @ neighbours(pairs_together(k, 8), angle[1])
    assert np.isclose(ours, halves(q, angle[0]) @ halves(k, angle[1]), rtol=1e-12)


def test_half_precision(tmp_path: Path) -> None:
    """BF16 and F16 tensors are what they say."""
    model = zoo.model_of(CONFIG)
    settings, tensors = adapter(model, ("mlp.up_proj",))
    rounded, stored, dtypes = {}, {}, {}
    for index, (name, values) in enumerate(tensors.items()):
        if index % 2:
            stored[name], dtypes[name] = values.astype(np.float16), "F16"
            rounded[name] = stored[name].astype(np.float32)
        else:
            upper = (values.view(np.uint32) >> 16).astype(np.uint16)
            stored[name], dtypes[name] = upper, "BF16"
            rounded[name] = (upper.astype(np.uint32) << 16).view(np.float32)
    merged = merge_lora(model, write(tmp_path / "a", settings, stored, dtypes))
    assert np.array_equal(merged.weights["w3"], merged_by_hand(model, rounded, 2.0)["w3"].astype(np.float32))


@pytest.mark.parametrize("case", ["granite", "gemma3"])
def test_an_adapter_of_a_folder_is_merged_as_the_folder_with_it_is_read(tmp_path: Path, case: str) -> None:
    """Whatever readers fold into weights, as Granite's multipliers, they fold into the adapter's share as well."""
    base = read_huggingface(foreign.write_folder(tmp_path / "base", foreign.CASES[case]))
    settings, found = adapter(base)
    merged = merge_lora(base, write(tmp_path / "adapter", settings, found))
    tensors = foreign.tensors(foreign.CASES[case])
    for place in PLACES:
        for layer in range(base.config.n_layers):
            name = f"layers.{layer}.{place}"
            a, b = (found[f"base_model.model.model.{name}.lora_{half}.weight"].astype(np.float64) for half in "AB")
            tensors[f"model.{name}.weight"] = (tensors[f"model.{name}.weight"] + 2.0 * b @ a).astype(np.float32)
    content = foreign.safetensors({name: foreign.stored(tensor) for name, tensor in tensors.items()})
    (tmp_path / "base" / "model.safetensors").write_bytes(content)
    whole = read_huggingface(tmp_path / "base")
    assert set(whole.factors) == ({"wq", "bq", "wo", "bo", "w2", "b2"} if case == "granite" else {"q_norm"})
    for name, expected in whole.weights.items():
        np.testing.assert_allclose(merged.weights[name], expected, rtol=1e-5, atol=1e-6)


def test_the_hash_is_of_model_and_adapter(tmp_path: Path) -> None:
    model = zoo.model_of(CONFIG)
    folder = write(tmp_path / "a", *adapter(model, ("mlp.up_proj",)))
    merged = merge_lora(model, folder)
    files = [(folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")]
    parts = b"".join(hashlib.sha256(part).digest() for part in (model.sha256.encode(), *files))
    assert merged.sha256 == hashlib.sha256(parts).hexdigest() != model.sha256


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("saved", [("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head")])
def test_whole_embeddings(tmp_path: Path, shared: bool, saved: tuple[str, ...]) -> None:
    """modules_to_save: a classifier that was shared and has weights of its own is shared no longer."""
    model = zoo.model_of(replace(CONFIG, shared_classifier=shared))
    settings, tensors = adapter(model, ("mlp.up_proj",))
    rng = np.random.default_rng(5)
    inner = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}
    whole = {name: rng.normal(size=(CONFIG.vocab_size, CONFIG.dim)).astype(np.float32) for name in saved}
    tensors |= {f"base_model.model.{inner[name]}.weight": values for name, values in whole.items()}
    merged = merge_lora(model, write(tmp_path / "a", settings | {"modules_to_save": list(saved)}, tensors))
    table = whole.get("embed_tokens", model.weights["token_embedding_table"])
    classifier = whole.get("lm_head", table if shared else model.weights["wcls"])
    assert np.array_equal(merged.weights["token_embedding_table"], table)
    assert np.array_equal(merged.weights["wcls"], classifier)
    assert merged.config.shared_classifier == (shared and "lm_head" not in saved)


def refusal(model: Model, folder: Path) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        merge_lora(model, folder)
    assert caught.value.where == f"LoRA adapter {folder}"
    return caught.value.what, caught.value.hint


MODULES = "supported: any of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"


@pytest.mark.parametrize(
    ("field", "value", "shown", "hint"),
    [
        ("peft_type", "LOHA", "'LOHA'", "supported: LORA"),
        ("r", 0, "0", "supported: an integer from 1 to 4096"),
        ("r", True, "True", "supported: an integer from 1 to 4096"),
        ("lora_alpha", "16", "'16'", "supported: a number other than 0"),
        ("lora_alpha", float("nan"), "nan", "supported: a number other than 0"),
        ("use_rslora", 1, "1", "supported: true or false"),
        ("bias", "lora_only", "'lora_only'", 'supported: "none"'),
        ("fan_in_fan_out", True, "True", "supported: nothing but its absence"),
        ("use_dora", True, "True", "supported: nothing but its absence"),
        ("rank_pattern", {"q_proj": 4}, "{'q_proj': 4}", "supported: nothing but its absence"),
        ("something_new", ["x" * 80], "['" + "x" * 55 + "...", "supported: nothing but its absence"),
        ("init_lora_weights", "pissa", "'pissa'", "supported: what leaves the model itself as it was"),
        ("target_modules", ["q_proj", "c_attn"], "['q_proj', 'c_attn']", MODULES),
        ("target_modules", None, "None", MODULES),
        ("modules_to_save", ["norm"], "['norm']", "supported: any of embed_tokens, lm_head"),
    ],
)  # fmt: skip
def test_settings_are_refused_by_name(tmp_path: Path, field: str, value: object, shown: str, hint: str) -> None:
    model = zoo.model_of(CONFIG)
    settings, tensors = adapter(model, ("self_attn.q_proj",))
    what = f"adapter_config.json has {field} = {shown}"
    assert refusal(model, write(tmp_path / "a", settings | {field: value}, tensors)) == (what, hint)


Q = "base_model.model.model.layers.1.self_attn.q_proj"
FOREIGN = "name the adapter of this very model"


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: values for key, values in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        (lambda t: without(t, f"{Q}.lora_B.weight"), "layer 1 has lora_A of q_proj, but no lora_B", "save it again"),
        (lambda t: without(without(t, f"{Q}.lora_B.weight"), f"{Q}.lora_A.weight"), "layer 1 has no adapter of q_proj, which is in target_modules", "save it again"),
        (lambda t: t | {Q.replace(".1.", ".2.") + ".lora_A.weight": t[f"{Q}.lora_A.weight"]}, "tensor base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight matches nothing in random0", FOREIGN),
        (lambda t: t | {f"{Q}.lora_magnitude_vector": np.ones(3, np.float32)}, f"tensor {Q}.lora_magnitude_vector matches nothing in random0", FOREIGN),
        (lambda t: t | {"base_model.model.lm_head.weight": np.ones((300, 48), np.float32)}, "tensor base_model.model.lm_head.weight matches nothing in random0", FOREIGN),
        (lambda t: t | {f"{Q}.lora_A.weight": np.ones((3, 47), np.float32)}, f"tensor {Q}.lora_A.weight is of shape [3, 47]; the model asks for [3, 48]", FOREIGN),
        (lambda t: t | {f"{Q}.lora_B.weight": np.ones((48, 4), np.float32)}, f"tensor {Q}.lora_B.weight is of shape [48, 4]; the model asks for [48, 3]", FOREIGN),
        (lambda t: t | {f"{Q}.lora_B.weight": np.full((48, 3), np.inf, np.float32)}, f"tensor {Q}.lora_B.weight holds values that are not finite", "the adapter's training diverged"),
        (lambda t: {name: values * np.float32(3e19) for name, values in t.items()}, "wq leaves float32 once the adapter is merged", "the adapter's training diverged"),
        (lambda t: t | {Q: np.ones(2, np.int32)}, f"tensor {Q} is of type I32", "supported: F64, F32, F16, BF16"),
    ],
)  # fmt: skip
def test_tensors_are_refused_by_name(tmp_path: Path, change: Any, what: str, hint: str) -> None:
    model = zoo.model_of(CONFIG)
    settings, tensors = adapter(model, ("self_attn.q_proj",))
    changed = change(tensors)
    assert refusal(model, write(tmp_path / "a", settings, changed, {Q: "I32"})) == (what, hint)


def test_an_adapter_of_some_layers_says_so(tmp_path: Path) -> None:
    model = zoo.model_of(CONFIG)
    settings, tensors = adapter(model, ("self_attn.q_proj",))
    some = {name: values for name, values in tensors.items() if ".1." in name}
    merged = merge_lora(model, write(tmp_path / "a", settings | {"layers_to_transform": [1]}, some))
    assert np.array_equal(merged.weights["wq"][0], model.weights["wq"][0])
    assert not np.array_equal(merged.weights["wq"][1], model.weights["wq"][1])


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    model = zoo.model_of(CONFIG)
    hint = "name the folder that PEFT's save_pretrained wrote, with adapter_config.json and adapter_model.safetensors in it"
    assert refusal(model, tmp_path / "no") == ("cannot read adapter_config.json: No such file or directory", hint)
    folder = write(tmp_path / "a", *adapter(model))
    content = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").unlink()
    assert refusal(model, folder) == ("cannot read adapter_model.safetensors: No such file or directory", hint)
    for damaged in (b"", content[:100], content[:-1], b"\xff" * 64):
        (folder / "adapter_model.safetensors").write_bytes(damaged)
        what = f"adapter_model.safetensors: the {len(damaged):,} bytes are not a whole safetensors file"
        assert refusal(model, folder) == (what, "save or copy the adapter again")
    for damaged in (b"", b"[]", b"\xff", b"[" * 100_000, b"1" * 5000):
        (folder / "adapter_config.json").write_bytes(damaged)
        assert refusal(model, folder) == ("adapter_config.json is not a JSON object", "save the adapter again")
    settings, _ = adapter(model)
    empty = write(tmp_path / "b", settings | {"target_modules": []}, {})
    assert refusal(model, empty) == ("adapter_model.safetensors holds no tensor", "save the adapter again")
    lost = write(tmp_path / "c", settings | {"target_modules": [], "modules_to_save": ["lm_head"]}, {})
    what = "lm_head is in modules_to_save, but not in adapter_model.safetensors"
    assert refusal(model, lost) == (what, "save the adapter again")


def test_experts_are_refused(tmp_path: Path) -> None:
    plain = zoo.model_of(CONFIG)
    model = zoo.model_of(replace(CONFIG, n_experts=2, experts_per_token=1))
    folder = write(tmp_path / "a", *adapter(plain, ("mlp.up_proj",)))
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    expected = (f"tensor {name} is for one matrix of a layer; this model has experts", "merge it in PEFT")
    assert refusal(model, folder) == expected
