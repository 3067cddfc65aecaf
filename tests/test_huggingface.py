"""Hugging Face folders: transformers' logits, every setting that is not supported refused by name, damage refused."""

from __future__ import annotations

import copy
import json
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from foreign import CASES, TOKENS, safetensors, stored, tensors, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mcugen.errors import InputError
from mcugen.huggingface import FAMILIES, read_huggingface, special_ids, tokenizer_file
from mcugen.ir import Config, weight_shapes
from mcugen.reference import FloatDecoder

GOLDEN = Path(__file__).resolve().parent / "golden_formats" / "logits.npz"
LLAMA = CASES["llama"]
DAMAGED = "save or download the model again, all files of it"


# ---------------------------------------------------------------- what transformers computes


def test_every_architecture_has_a_case():
    assert {settings["architectures"][0] for settings in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_the_float_reference_computes_transformers_logits(tmp_path, case):
    model = read_huggingface(write_folder(tmp_path / case, CASES[case]))
    observed = FloatDecoder(model).forward(TOKENS[None])[0]
    expected = np.load(GOLDEN)[case]
    np.testing.assert_allclose(observed, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert model.name == case
    shapes = weight_shapes(model.config) | {"wcls": model.weights["token_embedding_table"].shape}
    assert {name: tensor.shape for name, tensor in model.weights.items()} == shapes
    assert all(tensor.dtype == np.float32 and not tensor.flags.writeable for tensor in model.weights.values())


def test_a_config_without_anything_new_is_the_plain_config(tmp_path):
    model = read_huggingface(write_folder(tmp_path / "x", LLAMA))
    assert model.config == Config(24, 20, 2, 4, 2, 19, 32, False)


@pytest.mark.parametrize(("dtype", "bits"), [("F32", 24), ("F16", 11), ("BF16", 8)])
def test_types_of_weights(tmp_path, dtype, bits):
    """Each type's values as they are stored; the step of a type is 2**(1 - bits) of a value."""
    model = read_huggingface(write_folder(tmp_path / "x", LLAMA, dtype=dtype))
    expected = tensors(LLAMA)["model.layers.1.mlp.down_proj.weight"]
    error = np.abs(model.weights["w2"][1] - expected)
    assert (error <= 2.0 ** (1 - bits) * np.abs(expected) + 2.0**-24 * (dtype == "F16")).all()
    assert (error.max() == 0) == (dtype == "F32")


@pytest.mark.parametrize(("dtype", "scale"), [("F32", np.float32(24**0.5)), ("F16", 4.8984375), ("BF16", 4.90625)])
def test_gemmas_embedding_scale_is_rounded_to_the_type_of_its_weights(tmp_path, dtype, scale):
    """sqrt(24) = 4.898979: the neighbours in bfloat16 are 4.875 and 4.90625, in float16 4.8984375 and 4.90234375."""
    model = read_huggingface(write_folder(tmp_path / "x", CASES["gemma"], dtype=dtype))
    assert model.config.embedding_scale == scale


def test_the_window_of_a_whole_context_is_none(tmp_path):
    for size, windows in ((31, (31, 31)), (32, ()), (4096, ()), (None, ())):
        folder = write_folder(tmp_path / f"{size}", CASES["mistral"] | {"sliding_window": size})
        assert read_huggingface(folder).config.layer_windows == windows


def test_gemma_3_turns_layers_with_a_window_by_another_base_however_long_it_is(tmp_path):
    config = read_huggingface(write_folder(tmp_path / "x", CASES["gemma3"] | {"sliding_window": 4096})).config
    assert (config.layer_windows, config.local_rope_theta, config.rope_theta) == ((32, 0), 50.0, 900.0)


def test_shards_are_one_model(tmp_path):
    folder = write_folder(tmp_path / "whole", LLAMA)
    found = {name: stored(tensor) for name, tensor in tensors(LLAMA).items()}
    shards = write_shards(tmp_path / "shards", LLAMA, found)
    one, other = read_huggingface(folder), read_huggingface(shards)
    assert one.config == other.config
    assert all((one.weights[name] == other.weights[name]).all() for name in one.weights)
    assert one.sha256 != other.sha256


def write_shards(folder: Path, settings: dict, found: dict, **changes: str) -> Path:
    """A folder of two files and their index, in which tensors may be said to be elsewhere."""
    write_folder(folder, settings)
    (folder / "model.safetensors").unlink()
    names = sorted(found)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        (folder / file).write_bytes(safetensors({name: found[name] for name in part}))
    places = {name: file for file, part in halves.items() for name in part} | changes
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_sha256_is_of_settings_and_weights(tmp_path):
    folder = write_folder(tmp_path / "x", LLAMA)
    before = read_huggingface(folder).sha256
    (folder / "README.md").write_text("not a part of the model")
    assert read_huggingface(folder).sha256 == before
    write_folder(folder, LLAMA, seed=1)
    other = read_huggingface(folder).sha256
    write_folder(folder, LLAMA | {"rope_theta": 10001.0})
    assert len({before, other, read_huggingface(folder).sha256}) == 3


def test_ids_of_bos_and_eos(tmp_path):
    for given_ids, found in (((3, 4), (3, 4)), ((None, [7, 4]), (None, 7)), ((0, None), (0, None))):
        changes = dict(zip(("bos_token_id", "eos_token_id"), given_ids, strict=True))
        assert special_ids(write_folder(tmp_path / "x", LLAMA | changes), 19) == found
    message = refusal(special_ids, write_folder(tmp_path / "x", LLAMA | {"bos_token_id": 19}), 19)
    assert message.startswith("bos_token_id is 19\n") and message.endswith("it must be an integer in [0, 18]")


# ---------------------------------------------------------------- refusals


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


ROPE = {"rope_type": "linear", "factor": 2.0}
SUPPORTED = ", ".join(FAMILIES)
REFUSED = [
    ("llama", {"architectures": ["GPT2LMHeadModel"]}, "architectures is ['GPT2LMHeadModel'], model_type 'llama'", "", f"supported: {SUPPORTED}"),
    ("llama", {"architectures": None, "model_type": "mamba"}, "architectures is None, model_type 'mamba'", "", f"supported: {SUPPORTED}"),
    ("llama", {"architectures": ["LlamaForCausalLM"] * 2}, "architectures is ['LlamaForCausalLM', 'LlamaForCausalLM'], model_type 'llama'", "", f"supported: {SUPPORTED}"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}", "", "it must be left out: nothing else is supported"),
    ("llama", {"auto_map": {"AutoModel": "m.M"}}, "auto_map is {'AutoModel': 'm.M'}", "", "it must be left out: nothing else is supported"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0", "", "it must be left out: nothing else is supported"),
    ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0", "", "it must be left out: nothing else is supported"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True", "", "it must be False: nothing else is supported"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5", "", "it must be 1.0 or 1: nothing else is supported"),
    ("llama", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size is 8", "", "it must be 0: nothing else is supported"),
    ("llama", {"hidden_size": 1e9}, "hidden_size is 1000000000.0", "", "it must be an integer in [1, 65,536]"),
    ("llama", {"hidden_size": True}, "hidden_size is True", "", "it must be an integer in [1, 65,536]"),
    ("llama", {"num_hidden_layers": "2"}, "num_hidden_layers is '2'", "", "it must be an integer in [1, 1,024]"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0", "", "it must be an integer in [1, 1,024]"),
    ("llama", {"vocab_size": 151936}, "vocab_size is 151,936", "", "1 to 65,536 are supported; --vocab-from TEXT keeps the tokens that a text needs"),
    ("llama", {"max_position_embeddings": None}, "max_position_embeddings is None", "", "it must be an integer in [1, 1,048,576]"),
    ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1", "", "it must be true or false"),
    ("llama", {"rms_norm_eps": 0}, "rms_norm_eps is 0", "", "it must be a number between 0 and 1"),
    ("llama", {"rope_theta": 10**400}, f"rope_theta is 1{'0' * 56}...", "", "it must be a number between 1 and 1e+12"),
    ("llama", {"hidden_act": "mish"}, "hidden_act is 'mish'", "", "it must be one of gelu, gelu_fast, gelu_new, gelu_python, gelu_python_tanh, gelu_pytorch_tanh, relu, relu2, silu, swish"),
    ("llama", {"num_key_value_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3", "", "each KV head must serve the same number of query heads"),
    ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5}, "dim 24 is not divisible by n_heads 5", "", "state the size of a head"),
    ("llama", {"head_dim": 7}, "the head size is 7", "", "even sizes of 2 to 256 are supported"),
    ("llama", {"head_dim": 512}, "the head size is 512", "", "even sizes of 2 to 256 are supported"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'", ", rope_scaling", "it must be one of default, linear, llama3"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "type is 'dynamic'", ", rope_scaling", "it must be one of default, linear, llama3"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "factor is missing", ", rope_scaling", "it must be a number between 1e-06 and 1e+09"),
    ("llama", {"rope_scaling": [4.0]}, "rope_scaling is [4.0]", "", "it must be a JSON object"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25", ", rope_parameters", "it must be 1.0 or 1: nothing else is supported"),
    ("llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}, "low_freq_factor is 4.0", ", rope_scaling", "it must be below high_freq_factor 4"),
    ("mistral", {"rope_scaling": ROPE}, "rope_scaling scales RoPE in layers with a sliding window of 5 tokens", "", "scaling is supported in layers without a window: max_position_embeddings up to the window has none"),
    ("mistral", {"sliding_window": -1}, "sliding_window is -1", "", "it must be an integer in [1, 2,147,483,647]"),
    ("qwen3", {"layer_types": ["sliding_attention"]}, "layer_types is ['sliding_attention']", "", "it must be a list of 2 of full_attention and sliding_attention"),
    ("qwen3", {"layer_types": ["linear_attention", []]}, "layer_types is ['linear_attention', []]", "", "it must be a list of 2 of full_attention and sliding_attention"),
    ("gemma3", {"sliding_window": None}, "sliding_window is None", "", "it must be a number of tokens where layer_types has sliding_attention"),
    ("gemma3", {"rope_parameters": {"rope_theta": 5.0}}, "sliding_attention is missing", ", rope_parameters", "it must be a JSON object; Gemma 3 has one for each kind of layer and nothing else"),
    ("gemma3", {"rope_parameters": {"sliding_attention": ROPE}}, "rope_type is 'linear'", ", rope_parameters.sliding_attention", "it must be 'default': nothing else is supported"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers is [1, 0]", "", "it must be 1 for each layer: layers without RoPE are not supported"),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}, "no_rope_layers is None", "", "it must be 1 for each layer: layers without RoPE are not supported"),
    ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is False", "", "it must be true: the chosen experts' weights sum to 1"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers is [0]", "", "it must be []: nothing else is supported"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2", "", "it must be 1: nothing else is supported"),
    ("mixtral", {"num_experts_per_tok": 4}, "4 of 3 experts per token", "", "1 or more of at most 256 are supported"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "what", "spot", "hint"), REFUSED)
def test_settings_that_are_refused(tmp_path, case, changes, what, spot, hint):
    folder = write_folder(tmp_path / "x", CASES[case])
    (folder / "config.json").write_text(json.dumps(CASES[case] | changes))
    expected = f"{what}\n  where: Hugging Face folder {folder}, config.json{spot}\n  try:   {hint}"
    assert refusal(read_huggingface, folder) == expected


def test_more_tokens_than_the_firmware_holds_for_who_takes_some_out(tmp_path):
    settings = LLAMA | {"vocab_size": 70_000, "hidden_size": 8, "tie_word_embeddings": True}
    assert read_huggingface(write_folder(tmp_path / "x", settings), 100_000).config.vocab_size == 70_000


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 100_000, "the JSON is nested too deeply"),
        ('{"a": 1, "a": 2}', "the file is not JSON as it should be: a name stands twice in one object"),
        ('{"a": NaN}', "the file is not JSON as it should be: NaN is not a number"),
        ("[1]", "the file holds [1], no JSON object"),
        ("{", "the file is not JSON as it should be: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (" " * 2**20 + "{}", "config.json has 1,048,578 bytes; 1,048,576 are read at most"),
    ],
)  # fmt: skip
def test_a_config_that_is_no_json_object(tmp_path, text, what):
    folder = write_folder(tmp_path / "x", LLAMA)
    (folder / "config.json").write_text(text)
    spot = "" if "bytes" in what else ", config.json"
    assert refusal(read_huggingface, folder) == (
        f"{what}\n  where: Hugging Face folder {folder}{spot}\n  try:   {DAMAGED}"
    )


def test_folders_that_lack_a_file(tmp_path):
    folder = write_folder(tmp_path / "x", LLAMA)
    where = f"  where: Hugging Face folder {folder}"
    (folder / "model.safetensors").unlink()
    assert refusal(read_huggingface, folder) == (
        "the folder has neither model.safetensors nor model.safetensors.index.json\n"
        f"{where}\n  try:   download the model again, all files of it"
    )
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}")
    assert refusal(read_huggingface, folder) == (
        "the folder has its weights in 'pytorch_model.bin', a pickle, which is never read: it could run any code\n"
        f"{where}\n  try:   save them as safetensors, where you trust them: "
        "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True)"
    )
    (folder / "config.json").unlink()
    assert refusal(read_huggingface, folder) == (
        f"cannot read config.json: No such file or directory\n{where}\n"
        "  try:   a Hugging Face folder has config.json, model.safetensors (or model.safetensors.index.json and its "
        "files) and tokenizer.json"
    )
    hint = (
        "transformers writes it: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER); "
        "or name one with --tokenizer"
    )
    assert refusal(tokenizer_file, folder) == f"the folder has no tokenizer.json\n{where}\n  try:   {hint}"
    (folder / "tokenizer.model").write_bytes(b"x")
    assert refusal(tokenizer_file, folder) == (
        f"the folder has a tokenizer.model, but no tokenizer.json\n{where}\n  try:   {hint}"
    )


NORM = "model.norm.weight"


def test_tensors_that_are_refused(tmp_path):
    """Missing, left over, of another shape or type, not finite, tied and yet different: each by name."""
    folder = tmp_path / "x"
    plain = {name: stored(tensor) for name, tensor in tensors(LLAMA).items()}
    where = f"  where: Hugging Face folder {folder}"

    def text(settings=LLAMA, **changes) -> str:
        write_folder(folder, settings)
        found = {name: tensor for name, tensor in (plain | changes).items() if tensor is not None}
        (folder / "model.safetensors").write_bytes(safetensors(found))
        return refusal(read_huggingface, folder)

    assert text(**{NORM: None}) == (f"the tensor {NORM} is missing (20 are there)\n{where}\n  try:   {DAMAGED}")
    assert text(**{NORM: stored(np.ones(25))}) == (
        f"the tensor {NORM} has the shape [25]; the settings ask for [24]\n{where}\n"
        "  try:   settings and weights must be of the same model: download both again"
    )
    bias = "model.layers.1.self_attn.q_proj.bias"
    assert text(**{bias: stored(np.ones(24)), "z": stored(np.ones(1))}) == (
        f"the tensor {bias} is left over, one of 2 that this architecture has no place for\n{where}\n"
        "  try:   the model computes something else than its settings say: check its architecture"
    )
    assert text(**{NORM: ("I64", [24], bytes(192))}) == (
        f"the tensor {NORM} is of type I64\n{where}, model.safetensors\n"
        "  try:   save the model in one of the types F32, F16, BF16"
    )
    odd = tensors(LLAMA)["model.layers.1.mlp.up_proj.weight"].copy()
    odd[3, 2:4] = np.nan, np.inf
    assert text(**{"model.layers.1.mlp.up_proj.weight": stored(odd)}) == (
        f"the weight model.layers.1.mlp.up_proj.weight[3, 2] is nan; 2 of 480 are not finite\n{where}\n"
        "  try:   the training diverged or the file is damaged: export the model again"
    )
    assert text(LLAMA | {"tie_word_embeddings": True}) == (
        "lm_head.weight differs from model.embed_tokens.weight, but tie_word_embeddings says they are the same\n"
        f"{where}\n  try:   set tie_word_embeddings to false if the model was trained with a classifier of its own"
    )
    granite = CASES["granite"] | {"residual_multiplier": 1e8}
    large = {name: stored(np.full_like(t, 3e38)) for name, t in tensors(granite).items() if "down_proj" in name}
    plain = {name: stored(tensor) for name, tensor in tensors(granite).items()}
    assert text(granite, **large).startswith(
        "the weight model.layers.0.mlp.down_proj.weight[0, 0] is inf; 480 of 480"
    )


def test_a_tied_classifier_and_old_frequencies_may_be_stored_all_the_same(tmp_path):
    found = {name: stored(tensor) for name, tensor in tensors(CASES["llama3"]).items()}
    folder = write_folder(tmp_path / "x", CASES["llama3"])
    more = {"lm_head.weight": found["model.embed_tokens.weight"]}
    more["model.layers.0.self_attn.rotary_emb.inv_freq"] = stored(np.ones(4))
    (folder / "model.safetensors").write_bytes(safetensors(found | more))
    assert read_huggingface(folder).config.shared_classifier


@pytest.mark.parametrize(
    ("changes", "what", "spot", "hint"),
    [
        ({NORM: "../a.safetensors"}, f"the tensor '{NORM}' is in '../a.safetensors'", ", model.safetensors.index.json", "it must be the name of a .safetensors file in the same folder"),
        ({NORM: "/etc/passwd"}, f"the tensor '{NORM}' is in '/etc/passwd'", ", model.safetensors.index.json", "it must be the name of a .safetensors file in the same folder"),
        ({NORM: "\ud800.safetensors"}, f"the tensor '{NORM}' is in '\\ud800.safetensors'", ", model.safetensors.index.json", "it must be the name of a .safetensors file in the same folder"),
        ({NORM: 7}, f"the tensor '{NORM}' is in 7", ", model.safetensors.index.json", "it must be the name of a .safetensors file in the same folder"),
        ({NORM: "c.safetensors"}, "a.safetensors has model.norm.weight, and model.safetensors.index.json does not say so", "", DAMAGED),
        ({"extra": "b.safetensors"}, "model.safetensors.index.json says that 'extra' is in b.safetensors: it is not", "", DAMAGED),
    ],
)  # fmt: skip
def test_an_index_that_is_refused(tmp_path, changes, what, spot, hint):
    found = {name: stored(tensor) for name, tensor in tensors(LLAMA).items()}
    folder = write_shards(tmp_path / "x", LLAMA, found, **changes)
    expected = f"{what}\n  where: Hugging Face folder {folder}{spot}\n  try:   {hint}"
    assert refusal(read_huggingface, folder) == expected


def test_a_weight_map_that_is_none(tmp_path):
    folder = write_shards(tmp_path / "x", LLAMA, {})
    spot = f"  where: Hugging Face folder {folder}, model.safetensors.index.json"
    assert refusal(read_huggingface, folder) == (
        f"weight_map is {{}}\n{spot}\n  try:   it must name the file of each tensor"
    )


# ---------------------------------------------------------------- whatever a folder holds

TINY = LLAMA | {"hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"vocab_size": 5, "num_key_value_heads": 1}
WHOLE = safetensors({name: stored(tensor) for name, tensor in tensors(TINY).items()})
PEAK = 64 * 2**20


def read_or_refused(function, *arguments) -> None:
    """Only InputError comes out, and no more is allocated than a small file can mean."""
    tracemalloc.start()
    try:
        model = function(*arguments)
    except InputError as error:
        str(error).encode()
    else:
        assert all(np.isfinite(tensor).all() for tensor in model.weights.values())
        assert math.isfinite(float(np.abs(FloatDecoder(model).forward(np.zeros((1, 3), int))).max()) * 0)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PEAK


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**30, 1e9, 2**31, 65536, "linear", "llama3", "sliding_attention", "relu2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=150)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_any_settings_are_read_or_refused(tmp_path_factory, case, data):
    changed = copy.deepcopy(CASES[case])
    rope = ["rope_scaling", "rope_parameters", "layer_types", "head_dim", "sliding_window", "no_rope_layers"]
    for name in data.draw(st.lists(st.sampled_from([*sorted(changed), *rope]), max_size=3)):
        inner = changed.get(name)
        if isinstance(inner, dict) and data.draw(st.booleans()):
            inner[data.draw(st.sampled_from([*sorted(inner), "rope_type", "factor"]))] = data.draw(_JSON)
        else:
            changed[name] = data.draw(_JSON)
    folder = write_folder(tmp_path_factory.getbasetemp() / "settings", CASES[case])
    (folder / "config.json").write_text(json.dumps(changed))
    read_or_refused(read_huggingface, folder)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4),
    st.integers(-40, 40) | st.integers(-len(WHOLE), 0),
    st.tuples(*[st.integers(0, len(WHOLE))] * 3) | st.none(),
)
def test_any_weights_are_read_or_refused(tmp_path_factory, changes, growth, splice):
    """Bytes changed, the end cut off or grown, a stretch copied to another place."""
    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    if splice:
        start, end, at = splice
        content[at : at + end - start] = content[start:end]
    content = content[: len(content) + min(growth, 0)] + b"\x55" * max(growth, 0)
    folder = write_folder(tmp_path_factory.getbasetemp() / "weights", TINY)
    (folder / "model.safetensors").write_bytes(content)
    read_or_refused(read_huggingface, folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]},
        {"dtype": "F32", "shape": [4], "data_offsets": [2**60, 2**60 + 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        {"dtype": "F33", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2**64], "data_offsets": [0, 16]},
    ],
)
def test_hostile_headers_of_safetensors(tmp_path, entry):
    for header in ({NORM: entry}, {NORM: entry, "other": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}):
        text = json.dumps(header).encode()
        folder = write_folder(tmp_path / "x", TINY)
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
        assert refusal(read_huggingface, folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + text)
    assert refusal(read_huggingface, folder)
