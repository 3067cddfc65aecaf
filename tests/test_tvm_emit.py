"""C out of Apache TVM: which functions a graph calls and with what, the process that makes them, and the text."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import microtvm
import native
import on_core
import pytest
import zoo
from projects import require

from mcugen.boards import load_board
from mcugen.cache import Cache
from mcugen.errors import InternalError, ToolError
from mcugen.families import TVM_FAMILIES
from mcugen.ir import Config, Graph
from mcugen.layouts import LAYOUTS
from mcugen.lower import lower
from mcugen.microtvm import emitter
from mcugen.microtvm.ctidy import tidy
from mcugen.microtvm.emitter import TvmFault, emit, find_tvm
from mcugen.microtvm.functions import Buffer, Constant, Function, Integer, Table, arguments, function_of, functions_of

GOLDEN = Path(__file__).parent / "golden_tvm.json"
FEATURES = {"tvm": frozenset[str](), "tvm_dsp": frozenset({"dsp"}), "tvm_mve": frozenset({"mve"})}
SWIGLU, NORM = Function("swiglu_s16", (("n", 5),)), Function("rmsnorm_s16", (("dim", 4),))
HINT = (
    "`pip install 'mcugen[microtvm]'`, which is apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1, "
    "with Python 3.11 to 3.13"
)


def graph_of(config: Config, family: str, bits: int = 8) -> Graph:
    return lower(zoo.quantized(config, bits=bits), config.seq_len, FEATURES[family], families=TVM_FAMILIES)


# ---------------------------------------------------------------- functions and arguments


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", FEATURES)
@zoo.shapes()
def test_every_op_passes_what_its_function_takes(config: Config, family: str, bits: int) -> None:
    graph = graph_of(config, family, bits)
    for op in (*graph.ops, *graph.rebase):
        passed, parameters = arguments(op, graph), function_of(op, graph).parameters
        names = [argument.name for argument in passed if isinstance(argument, Buffer)]
        assert set(names) == {*op.outputs, *op.inputs, *op.scratch}
        for argument, parameter in zip(passed, parameters, strict=True):
            assert parameter.pointer == isinstance(argument, Buffer | Constant | Table)
            if isinstance(argument, Constant):
                assert argument.values.dtype == parameter.dtype
                assert parameter.const
            elif isinstance(argument, Buffer):
                buffer = graph.buffers[argument.name]
                assert (LAYOUTS[buffer.layout].dtype or buffer.dtype) == parameter.dtype
        written = [a.name for a, p in zip(passed, parameters, strict=True) if p.pointer and not p.const]
        assert written == [*op.outputs, *op.scratch]


@pytest.mark.parametrize("family", FEATURES)
def test_a_name_is_one_function(family: str) -> None:
    functions = [f for config in zoo.SHAPES.values() for f in functions_of(graph_of(config, family))]
    assert len({function.name for function in functions}) == len(set(functions))


def test_ops_share_functions_and_arrays() -> None:
    graph = graph_of(zoo.SHAPES["mha"], "tvm")  # two layers, shared classifier
    assert len(functions_of(graph)) < len(graph.ops) / 2
    passed = [a for op in (*graph.ops, *graph.rebase) for a in arguments(op, graph) if isinstance(a, Constant)]
    by_name = {a.name: a.owner for a in passed}
    assert by_name["embedding_codes"] is by_name["logits_codes"]
    assert len({id(a.owner) for a in passed if a.name == "rope_step"}) == 1
    assert len({id(a.owner) for a in passed if a.name == "layer0_key_zero"}) == 1


def test_the_integers_are_those_of_the_layer() -> None:
    graph = graph_of(zoo.SHAPES["gqa"], "tvm")
    layer = graph.model.layers[1]
    passed = {op.label: [a.value for a in arguments(op, graph) if isinstance(a, Integer)] for op in graph.ops}
    assert passed["layers.1.wo"] == [layer.wo.shift]
    assert passed["layers.1.swiglu"] == [layer.gate_frac, layer.swiglu_shift]
    assert passed["layers.1.att_norm"] == [layer.att_norm.gain_frac, layer.att_norm.eps]


def test_a_prototype_names_every_parameter() -> None:
    assert SWIGLU.prototype("tvmgen_default_") == (
        "void tvmgen_default_swiglu_s16_5(int16_t *y, const int16_t *gate, const int16_t *up, int32_t gate_frac,\n"
        "                                 int32_t shift, const int16_t *sigmoid)"
    )


# ---------------------------------------------------------------- the process


def test_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = emitter.PINS | {"apache-tvm-ffi": "0.1.15"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    with pytest.raises(ToolError) as error:
        find_tvm()
    assert error.value.exit_code == 5
    assert str(error.value) == (
        f"the Python package apache-tvm-ffi is 0.1.15, not 0.1.14.post1\n  where: Apache TVM\n  try:   {HINT}"
    )


def test_no_tvm_is_said_with_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for ask in (find_tvm, lambda: emit((SWIGLU,), "")):
        with pytest.raises(ToolError) as error:
            ask()
        assert error.value.exit_code == 5
        assert str(error.value) == (
            f"the Python package apache-tvm is not installed\n  where: Apache TVM\n  try:   {HINT}"
        )


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("import os; os.kill(os.getpid(), 11)", "Apache TVM ended: SIGSEGV"),
        (
            "import sys; sys.exit('no such op\\n\\nwho knows')",
            "Apache TVM ended: exit status 1 (no such op; who knows)",
        ),
    ],
)
def test_a_process_that_dies_is_an_error(
    entry: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    microtvm.require_tvm()
    monkeypatch.setattr(emitter, "_ENTRY", entry)
    with pytest.raises(TvmFault) as error:
        emit((SWIGLU,), "", Cache(tmp_path))
    assert str(error.value) == (
        f"{what}\n  where: Apache TVM\n"
        "  try:   its versions are pinned: does PYTHONPATH put another one first? Else please report it"
    )


def test_what_tvm_raises_is_an_error(tmp_path: Path) -> None:
    microtvm.require_tvm()
    with pytest.raises(TvmFault, match=r"^Apache TVM refuses: KeyError: 'n'"):
        emit((Function("swiglu_s16", (("dim", 5),)),), "", Cache(tmp_path))


def test_tvm_stays_out_of_this_process(tmp_path: Path) -> None:
    microtvm.require_tvm()
    emit((SWIGLU,), "", Cache(tmp_path))
    assert "tvm" not in sys.modules


def test_what_was_made_once_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    microtvm.require_tvm()
    made = emit((SWIGLU,), "", Cache(tmp_path))
    monkeypatch.setattr(emitter, "_ENTRY", "import sys; sys.exit(1)")
    assert emit((SWIGLU,), "", Cache(tmp_path)) == made
    for functions, prefix in (((SWIGLU,), "p_"), ((NORM,), "")):
        with pytest.raises(TvmFault):
            emit(functions, prefix, Cache(tmp_path))


# ---------------------------------------------------------------- the text


def functions_everywhere() -> dict[str, tuple[Function, ...]]:
    """The functions of some of the zoo and of stories260K's shape, by family."""
    configs = [zoo.SHAPES["gqa"], zoo.SHAPES["narrow"]]
    found: dict[str, tuple[Function, ...]] = {}
    for family in FEATURES:
        each = (functions_of(graph_of(config, family, bits)) for config in configs for bits in (8, 4))
        found[family] = tuple(dict.fromkeys(function for functions in each for function in functions))
    return found


def test_the_text_depends_on_nothing_but_the_functions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    microtvm.require_tvm()
    functions = functions_of(graph_of(zoo.SHAPES["gqa"], "tvm"))
    made = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        made.append(emit(functions, "p_", Cache(tmp_path / seed)))
    assert made[0] == made[1]
    alone = emit((functions[3],), "p_", Cache(tmp_path)).source
    definition = alone[alone.index(functions[3].prototype("p_")) :]
    assert definition in made[0].source


@pytest.mark.parametrize("family", FEATURES)
def test_the_text_needs_no_runtime(family: str) -> None:
    microtvm.require_tvm()
    source = emit(functions_everywhere()[family], "p_").source
    assert re.findall(r"^ *#.*", source, re.MULTILINE) == ["#include <stdint.h>"]
    assert not re.search(r"float|double|malloc|/home|/tmp|" + re.escape(str(Path(__file__).parent.parent)), source)


@pytest.mark.parametrize("family", FEATURES)
def test_golden_hashes(family: str, update_golden: bool, tmp_path: Path) -> None:
    """The C of every function, by name: what TVM makes of the same TIR may not change unseen."""
    microtvm.require_tvm()
    functions = functions_everywhere()[family]
    source = emit(functions, "", Cache(tmp_path)).source
    starts = [source.index(f"\n{function.prototype('')}") for function in functions]
    texts = [source[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    made = {f.name: hashlib.sha256(t.encode()).hexdigest() for f, t in zip(functions, texts, strict=True)}
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if update_golden:
        GOLDEN.write_text(json.dumps(dict(sorted({**kept, family: made}.items())), indent=1, sort_keys=True) + "\n")
    else:
        assert made == kept[family]


def test_the_text_compiles_here_without_a_warning(tmp_path: Path) -> None:
    microtvm.require_tvm()
    path = tmp_path / "kernels.c"
    path.write_text(emit(functions_everywhere()["tvm"], "p_").source)
    native.compile_clean([path], [])


@pytest.mark.parametrize(
    ("core", "family"),
    [("cortex-m0plus", "tvm"), ("cortex-m3", "tvm"), ("cortex-m4", "tvm_dsp"), (on_core.RISCV, "tvm")],
)
@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_the_text_compiles_for_a_core_without_a_warning(
    core: str, family: str, toolchain: str, tmp_path: Path
) -> None:
    microtvm.require_tvm()
    board = {"cortex-m0plus": "mps2-an383", on_core.RISCV: "qemu-virt-rv32"}.get(core, "mps2-an386")
    require(toolchain, load_board(board))
    path = tmp_path / "kernels.c"
    path.write_text(emit(functions_everywhere()[family], "p_").source)
    more = ["-fno-sanitize=undefined"] if toolchain == "zig" else []
    command = [*on_core.core_flags(core, toolchain), *on_core.FLAGS, *more, "-c", str(path), "-o", f"{path}.o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- what is made of TVM's text

TEXT = """// tvm target
#include "tvm/runtime/base.h"
TVM_DLL void p_swiglu_s16_5(int16_t* y, int16_t* gate);
TVM_DLL void p_swiglu_s16_5(int16_t* y, int16_t* gate) {
BODY}

"""


def tidied(body: str) -> str:
    """What becomes of a body, without what surrounds it."""
    return tidy((SWIGLU,), (TEXT.replace("BODY", body),), "p_", "0").partition("{\n")[2].removesuffix("}\n")


def test_values_have_the_names_that_the_kernel_gave_them() -> None:
    body = "  int32_t cse_v1 = (shift - 2);\n  int32_t bits = cse_v1;\n  y[0] = cse_v1 + cse_v12;\n"
    assert tidied(body) == "    int32_t bits = (shift - 2);\n    y[0] = bits + cse_v12;\n"


def test_what_nothing_uses_goes_but_not_a_call() -> None:
    body = (
        "  int32_t a = (shift - 2);\n  int32_t b = (a - 2);\n  x[0] = x[0];\n  #pragma unroll 1\n  while (1) {\n  }\n"
    )
    assert tidied(body) == "    while (1) {\n    }\n"
    assert "f(2)" in tidied("  int32_t a = f(2);\n")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (TEXT.replace("BODY", "  int32_t v_ = y[0] - 1;\n"), "TVM keeps what min or max read of y, which changes"),
        (
            TEXT.replace("BODY", "  int32_t v__1 = a_ptr[0];\n"),
            "TVM keeps what min or max read of a_ptr, which changes",
        ),
        (TEXT.replace("swiglu", "other"), "TVM's C has other functions than it was given"),
        (TEXT.replace("BODY", "  TVMBackendAllocWorkspace(TVM_X);\n"), "TVM's C needs its runtime"),
        (
            TEXT.replace("#include", "TVM_DLL int32_t unknown(int32_t, int32_t);\n#include").replace("BODY", ""),
            "TVM's C calls what nothing declares: unknown",
        ),
    ],
)
def test_a_text_that_is_not_understood_is_refused(text: str, what: str) -> None:
    with pytest.raises(InternalError) as error:
        tidy((SWIGLU,), (text,), "p_", "0")
    assert error.value.what == what


def test_reading_an_input_twice_is_no_reason_to_refuse() -> None:
    assert tidied("  int32_t v_ = gate[0] - 1;\n  y[0] = v_;\n")


def test_intrinsics_are_declared_where_they_are_used() -> None:
    """... and what they use themselves; a function that nothing calls would be a warning."""
    microtvm.require_tvm()
    functions = functions_of(graph_of(zoo.SHAPES["gqa"], "tvm_mve"))
    source = emit(functions, "p_").source
    defined = re.findall(r"^static inline void (\w+)\(", source, re.MULTILINE)
    assert "tvm_linear_s16" in defined
    assert all(len(re.findall(rf"\b{name}\(", source)) > 1 for name in defined)
    assert source.count("} mg_linear_t;") == 1
