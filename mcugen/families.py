"""Kernel families: which C serves which core, and the layouts that its kernels share.

A family is chosen as a whole, by what the core has, because its kernels agree on how codes, rings and weights lie.
Whatever a family does not override is the portable kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mcugen.ir import KernelVariant


@dataclass(frozen=True, slots=True)
class Family:
    """needs: features of the core. codes, keys, values: buffer layouts (mcugen.layouts). packing: of every matrix
    (mcugen.packing). score_rows, score_step: the scratch of attention holds that many query heads, each padded to a
    multiple of that many scores. headers: files in firmware/, the one with the prototypes first. code_bytes: what
    kernels, runtime and application take at most, measured with the larger toolchain, int4 and several tokens at
    once. kernels: what the family has of its own. forms: narrower ones of those, by kernel and form: "pairs" or
    "singles" of query heads that share keys."""

    name: str
    needs: frozenset[str] = frozenset()
    codes: str = "plain"
    keys: str = "plain"
    values: str = "plain"
    packing: str = "row_major"
    score_rows: int = 1
    score_step: int = 1
    headers: tuple[str, ...] = ()
    code_bytes: int = 12_500
    kernels: Mapping[str, KernelVariant] = field(default_factory=dict)
    forms: Mapping[tuple[str, str], KernelVariant] = field(default_factory=dict)

    def variant(self, kernel: str, form: str = "") -> KernelVariant:
        """The C implementation of a kernel in this family, in a form that is enough if there is one."""
        return self.forms.get((kernel, form)) or self.kernels.get(kernel) or PORTABLE[kernel]


def _portable(*kernels: str, file: str) -> dict[str, KernelVariant]:
    return {kernel: KernelVariant(f"mg_{kernel}", (f"kernels/{file}",)) for kernel in kernels}


def _own(suffix: str, *kernels: str, files: tuple[str, ...]) -> dict[str, KernelVariant]:
    """files: in firmware/kernels/."""
    sources = tuple(f"kernels/{file}" for file in files)
    return {kernel: KernelVariant(f"mg_{kernel}_{suffix}", sources) for kernel in kernels}


LINEAR = ("linear_s8", "linear_s16", "linear_s32", "linear_add_s16")
LINEAR4 = ("linear4_s8", "linear4_s16", "linear4_add_s16")

PORTABLE: Mapping[str, KernelVariant] = {
    **_portable("embed_s16", file="embed.c"),
    **_portable("rmsnorm_s16", file="rmsnorm.c"),
    **_portable("block_s8", file="block.c"),
    **_portable(*LINEAR, *LINEAR4, file="linear.c"),
    **_portable("keep_s16", file="keep.c"),
    **_portable("rope_s16", "rope_s8", "rebase_s8", file="rope.c"),
    **_portable("attention_s16", file="attention.c"),
    **_portable("values4_s16", "attention4_s16", file="attention4.c"),
    **_portable("swiglu_s16", file="swiglu.c"),
    # What close relatives of Llama add, in any family
    **_portable("geglu_s16", "geglu_tanh_s16", file="geglu.c"),
    **_portable("reglu_s16", "relu2glu_s16", file="reglu.c"),
    **_portable("headnorm_s16", file="headnorm.c"),
    **_portable("add_s16", "scale_s16", file="elementwise.c"),
    **_portable("route_s32", file="route.c"),
    # TFLite Micro computes the product, and our C what follows it
    "fc_s16": KernelVariant("mg_rescale_s16", ("kernels/rescale.c",)),
    "fc_add_s16": KernelVariant("mg_rescale_add_s16", ("kernels/rescale.c",)),
}

# What kernels that not every model has take of the flash at most, their tables included, with either toolchain.
MORE_BYTES: Mapping[str, int] = {
    "geglu_s16": 420, "geglu_tanh_s16": 420, "reglu_s16": 180, "relu2glu_s16": 350, "headnorm_s16": 110,
    "add_s16": 90, "scale_s16": 90, "route_s32": 340,
}  # fmt: skip

_MVE_LINEAR = ("mve/linear_mve.S", "mve/gemv_s8_mve.S", "mve/linear.c")

MVE = Family(
    "mve",
    frozenset({"mve"}),
    codes="padded16",
    keys="key_octets",
    values="value_columns",
    packing="mve",
    score_rows=2,
    score_step=16,
    headers=("kernels/mve/kernels_mve.h", "kernels/mve/vectors_mve.h"),
    code_bytes=18_600,
    kernels={
        **_own("mve", "embed_s16", files=("mve/embed.c",)),
        **_own("mve", "rmsnorm_s16", files=("mve/rmsnorm.c",)),
        **_own("mve", "block_s8", files=("mve/block.c",)),
        **_own("mve", *LINEAR, files=_MVE_LINEAR),
        **_own("mve", *LINEAR4, files=(*_MVE_LINEAR, "mve/gemv_s4_mve.S", "mve/gemv_s4_groups_mve.S")),
        **_own("mve", "rope_s16", "rope_s8", "rebase_s8", files=("mve/rope.c",)),
        **_own("mve", "attention_s16", files=("mve/attention.c", "mve/attend_mve.S")),
        **_own("mve", "swiglu_s16", files=("mve/swiglu.c",)),
    },
)


_DSP_ATTENTION = (
    "dsp/attention.c",
    *(f"dsp/attention_{part}_dsp.S" for part in ("scores", "weights", "values")),
    "dsp/tables_dsp.c",
)


def _dsp_kernels(folder: str) -> dict[str, KernelVariant]:
    """folder: of the products of a matrix with one vector, which the M7 has of its own."""
    shared = ("dsp/vector.c", "dsp/matrix.c", "dsp/finish_dsp.S")
    s8 = (f"{folder}/gemv_s8_{folder}.S", "dsp/gemm_s8_dsp.S")
    s4 = (f"{folder}/gemv_s4_{folder}.S", "dsp/gemm_s4_dsp.S", "dsp/gemv_s4_groups_dsp.S")
    return {
        **_own("dsp", "embed_s16", files=("dsp/embed.c", "dsp/embed_dsp.S")),
        **_own("dsp", "rmsnorm_s16", files=("dsp/rmsnorm.c", "dsp/rmsnorm_dsp.S")),
        **_own("dsp", "block_s8", files=("dsp/block_dsp.S",)),
        **_own("dsp", *LINEAR, files=("dsp/linear.c", *shared, *s8)),
        **_own("dsp", *LINEAR4, files=("dsp/linear4.c", "dsp/groups.c", *shared, *s4)),
        **_own("dsp", "rope_s16", "rope_s8", files=("dsp/rope_dsp.S",)),
        **_own("dsp", "attention_s16", files=_DSP_ATTENTION),
        **_own("dsp", "swiglu_s16", files=("dsp/swiglu_dsp.S", "dsp/tables_dsp.c", "swiglu.c")),
    }


DSP = Family(
    "dsp",
    frozenset({"dsp"}),
    codes="words16",
    values="value_pairs",
    packing="dsp",
    score_rows=2,
    score_step=16,
    headers=tuple(f"kernels/dsp/{name}.h" for name in ("kernels_dsp", "matrix", "attention_dsp", "tables_dsp")),
    code_bytes=26_300,
    kernels=_dsp_kernels("dsp"),
    forms={
        ("attention_s16", form): _own("dsp", f"attention_{form}_s16", files=_DSP_ATTENTION)[f"attention_{form}_s16"]
        for form in ("pairs", "singles")
    },
)
DSP7 = replace(DSP, name="dsp7", needs=frozenset({"dsp", "dual_issue"}), kernels=_dsp_kernels("dsp7"))

RV32 = Family(
    "rv32",
    frozenset({"rv32"}),
    codes="factors",
    packing="rv32",
    score_rows=2,
    headers=("kernels/rv32/kernels_rv32.h",),
    code_bytes=19_200,
    kernels={
        **_own("rv32", "embed_s16", files=("rv32/embed.c",)),
        **_own("rv32", "rmsnorm_s16", files=("rv32/rmsnorm.c",)),
        **_own("rv32", "block_s8", files=("rv32/block.c",)),
        **_own("rv32", *LINEAR, *LINEAR4, files=("rv32/linear.c", "rv32/gemv_s8_rv32.S", "rv32/gemv_s4_rv32.S")),
        **_own("rv32", "attention_s16",
               files=("rv32/attention.c", "rv32/score_8_rv32.S", "rv32/weigh_rv32.S", "rv32/average_8_rv32.S")),
        **_own("rv32", "swiglu_s16", files=("rv32/swiglu.c",)),
    },
)  # fmt: skip


def _scalar(name: str, codes: str, score_rows: int, more: Mapping[str, tuple[str, ...]]) -> Family:
    """A family of a core without SIMD. more: files beside those that each of them has, per kernel."""
    linear = ("linear.c", "gemv_s8_{}.S", "gemv_s4_{}.S", "finish_{}.S")
    files = {
        **dict.fromkeys((*LINEAR, *LINEAR4), linear),
        **dict.fromkeys(("rope_s8", "rebase_s8"), ("rope.c",)),
        "embed_s16": ("embed.c",),
        "block_s8": (),
        "rmsnorm_s16": ("rmsnorm.c", "norm_{}.S"),
        "attention_s16": ("attention.c", "scores_{}.S", "weigh_{}.S", "values_{}.S"),
        "swiglu_s16": ("swiglu_{}.S",),
    }
    shared = {
        **dict.fromkeys((*LINEAR, *LINEAR4), ("row_digits.c",)),
        "rmsnorm_s16": ("rmsnorm.c",),  # the portable one, for gains far from what their format is made for
    }
    kernels: dict[str, KernelVariant] = {}
    for kernel, own in files.items():
        paths = tuple(f"{name}/{file.format(name)}" for file in (*own, *more.get(kernel, ())))
        kernels |= _own(name, kernel, files=(*paths, *shared.get(kernel, ())))
    return Family(
        name,
        frozenset({name}),
        codes=codes,
        keys="key_quads",
        values="value_quads",
        packing=name,
        score_rows=score_rows,
        score_step=4,
        headers=(f"kernels/{name}/kernels_{name}.h", "kernels/row_digits.h", "kernels/key_quads.h"),
        code_bytes=20_800,
        kernels=kernels,
    )


V7M = _scalar(
    "v7m",
    codes="padded8",
    score_rows=2,
    more={"block_s8": ("block_v7m.S",), **dict.fromkeys((*LINEAR, *LINEAR4), ("gemv_s4_groups_v7m.S",))},
)
V6M = _scalar(
    "v6m",
    codes="unsigned8",
    score_rows=1,
    more={
        "block_s8": ("block.c", "codes_v6m.S", "divide_v6m.S"),
        "rmsnorm_s16": ("divide_v6m.S",),
        "attention_s16": ("divide_v6m.S",),
    },
)

# The most specialised first.
FAMILIES: tuple[Family, ...] = (MVE, DSP7, DSP, RV32, V7M, V6M, Family("portable"))


_NO_C = KernelVariant("", ())


def _tvm_kernels(int8: KernelVariant = _NO_C, int4: KernelVariant = _NO_C) -> dict[str, KernelVariant]:
    """int8, int4: what the products with such weights call. All else is Apache TVM's alone."""
    return dict.fromkeys(PORTABLE, _NO_C) | dict.fromkeys(LINEAR, int8) | dict.fromkeys(LINEAR4, int4)


def _tvm_dsp(folder: str) -> dict[str, KernelVariant]:
    """folder: as that of _dsp_kernels."""
    s8, s4 = (f"kernels/{folder}/gemv_{codes}_{folder}.S" for codes in ("s8", "s4"))
    groups, finish = "kernels/dsp/gemv_s4_groups_dsp.S", "kernels/dsp/finish_dsp.S"
    return _tvm_kernels(
        KernelVariant("mg_gemv_s8_dsp", (s8, finish)), KernelVariant("mg_gemv_s4_dsp", (s4, groups, finish))
    )


_TVM_MVE = _tvm_kernels(
    KernelVariant("mg_linear_s16_mve", ("kernels/mve/linear_mve.S", "kernels/mve/gemv_s8_mve.S")),
    KernelVariant(
        "mg_linear4_s16_mve",
        ("kernels/mve/linear_mve.S", "kernels/mve/gemv_s4_mve.S", "kernels/mve/gemv_s4_groups_mve.S"),
    ),
)

# Layouts of the microTVM target, whose kernels Apache TVM makes: what its matrix intrinsics read, all else plain.
TVM_FAMILIES: tuple[Family, ...] = (
    Family("tvm_mve", frozenset({"mve"}), codes="padded16", packing="mve", kernels=_TVM_MVE),
    Family("tvm_dsp7", DSP7.needs, codes="words16", packing="dsp", kernels=_tvm_dsp("dsp7")),
    Family("tvm_dsp", DSP.needs, codes="words16", packing="dsp", kernels=_tvm_dsp("dsp")),
    Family("tvm", kernels=_tvm_kernels()),
)


def family_named(name: str) -> Family:
    """The family of that name."""
    return next(family for family in (*FAMILIES, *TVM_FAMILIES) if family.name == name)


def choose_family(features: frozenset[str], families: tuple[Family, ...] | None = None) -> Family:
    """The first of `families`, of FAMILIES if none are given, whose needs are among the core's features."""
    return next(family for family in families or FAMILIES if family.needs <= features)
