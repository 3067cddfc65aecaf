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
    multiple of that many scores. headers: files in firmware/, the one with the prototypes first. kernels: what the
    family has of its own."""

    name: str
    needs: frozenset[str] = frozenset()
    codes: str = "plain"
    keys: str = "plain"
    values: str = "plain"
    packing: str = "row_major"
    score_rows: int = 1
    score_step: int = 1
    headers: tuple[str, ...] = ()
    kernels: Mapping[str, KernelVariant] = field(default_factory=dict)

    def variant(self, kernel: str) -> KernelVariant:
        """The C implementation of a kernel in this family."""
        return self.kernels.get(kernel) or PORTABLE[kernel]


def _portable(*kernels: str, file: str) -> dict[str, KernelVariant]:
    return {kernel: KernelVariant(f"mg_{kernel}", (f"kernels/{file}",)) for kernel in kernels}


LINEAR = ("linear_s8", "linear_s16", "linear_s32", "linear_add_s16")
LINEAR4 = ("linear4_s8", "linear4_s16", "linear4_add_s16")

PORTABLE: Mapping[str, KernelVariant] = {
    **_portable("embed_s16", file="embed.c"),
    **_portable("rmsnorm_s16", file="rmsnorm.c"),
    **_portable("block_s8", file="block.c"),
    **_portable(*LINEAR, *LINEAR4, file="linear.c"),
    **_portable("rope_s16", "rope_s8", "rebase_s8", file="rope.c"),
    **_portable("attention_s16", file="attention.c"),
    **_portable("swiglu_s16", file="swiglu.c"),
}

_MVE_LINEAR = ("linear_mve.S", "gemv_s8_mve.S", "linear_mve.c")


def _mve(*kernels: str, files: tuple[str, ...]) -> dict[str, KernelVariant]:
    sources = tuple(f"kernels/mve/{file}" for file in files)
    return {kernel: KernelVariant(f"mg_{kernel}_mve", sources) for kernel in kernels}


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
    kernels={
        **_mve("embed_s16", files=("embed_mve.c",)),
        **_mve("rmsnorm_s16", files=("rmsnorm_mve.c",)),
        **_mve("block_s8", files=("block_mve.c",)),
        **_mve(*LINEAR, files=_MVE_LINEAR),
        **_mve(*LINEAR4, files=(*_MVE_LINEAR, "gemv_s4_mve.S", "gemv_s4_groups_mve.S")),
        **_mve("rope_s16", "rope_s8", "rebase_s8", files=("rope_mve.c",)),
        **_mve("attention_s16", files=("attention_mve.c", "attend_mve.S")),
        **_mve("swiglu_s16", files=("swiglu_mve.c",)),
    },
)


def _rv32(*kernels: str, files: tuple[str, ...]) -> dict[str, KernelVariant]:
    sources = tuple(f"kernels/rv32/{file}" for file in files)
    return {kernel: KernelVariant(f"mg_{kernel}_rv32", sources) for kernel in kernels}


RV32 = Family(
    "rv32",
    frozenset({"rv32"}),
    codes="factors",
    packing="rv32",
    score_rows=2,
    headers=("kernels/rv32/kernels_rv32.h",),
    kernels={
        **_rv32("embed_s16", files=("embed_rv32.c",)),
        **_rv32("rmsnorm_s16", files=("rmsnorm_rv32.c",)),
        **_rv32("block_s8", files=("block_rv32.c",)),
        **_rv32(*LINEAR, *LINEAR4, files=("linear_rv32.c", "gemv_s8_rv32.S", "gemv_s4_rv32.S")),
        **_rv32("attention_s16", files=("attention_rv32.c", "score_8_rv32.S", "weigh_rv32.S", "average_8_rv32.S")),
        **_rv32("swiglu_s16", files=("swiglu_rv32.c",)),
    },
)


def _telescoping(family: str, *kernels: str, files: tuple[str, ...]) -> dict[str, KernelVariant]:
    folders = {"telescoping.c": "kernels"}  # shared
    sources = tuple(f"{folders.get(file, f'kernels/{family}')}/{file}" for file in files)
    return {kernel: KernelVariant(f"mg_{kernel}_{family}", sources) for kernel in kernels}


_TELESCOPING_HEADERS = ("kernels/telescoping.h", "kernels/key_quads.h")
_PORTABLE_NORM = PORTABLE["rmsnorm_s16"].sources  # for gains far from what their format is made for

V7M = Family(
    "v7m",
    frozenset({"v7m"}),
    codes="padded8",
    keys="key_quads",
    values="value_quads",
    packing="v7m",
    score_rows=2,
    score_step=4,
    headers=("kernels/v7m/kernels_v7m.h", *_TELESCOPING_HEADERS),
    kernels={
        **_telescoping("v7m", "embed_s16", files=("embed.c",)),
        **_telescoping("v7m", "block_s8", files=("block_v7m.S",)),
        **_telescoping(
            "v7m",
            *LINEAR,
            *LINEAR4,
            files=(
                "linear.c",
                "telescoping.c",
                "gemv_s8_v7m.S",
                "gemv_s4_v7m.S",
                "gemv_s4_groups_v7m.S",
                "finish_v7m.S",
            ),
        ),
        **_telescoping("v7m", "rope_s8", "rebase_s8", files=("rope.c",)),
        **_telescoping("v7m", "attention_s16", files=("attention.c", "scores_v7m.S", "weigh_v7m.S", "values_v7m.S")),
        **_telescoping("v7m", "swiglu_s16", files=("swiglu_v7m.S",)),
        "rmsnorm_s16": KernelVariant(
            "mg_rmsnorm_s16_v7m", ("kernels/v7m/rmsnorm.c", "kernels/v7m/norm_v7m.S", *_PORTABLE_NORM)
        ),
    },
)

V6M = Family(
    "v6m",
    frozenset({"v6m"}),
    codes="unsigned8",
    keys="key_quads",
    values="value_quads",
    packing="v6m",
    score_step=4,
    headers=("kernels/v6m/kernels_v6m.h", *_TELESCOPING_HEADERS),
    kernels={
        **_telescoping("v6m", "embed_s16", files=("embed.c",)),
        **_telescoping("v6m", "block_s8", files=("block.c", "codes_v6m.S", "divide_v6m.S")),
        **_telescoping(
            "v6m",
            *LINEAR,
            *LINEAR4,
            files=("linear.c", "telescoping.c", "gemv_s8_v6m.S", "gemv_s4_v6m.S", "finish_v6m.S"),
        ),
        **_telescoping("v6m", "rope_s8", "rebase_s8", files=("rope.c",)),
        **_telescoping(
            "v6m",
            "attention_s16",
            files=("attention.c", "scores_v6m.S", "weigh_v6m.S", "values_v6m.S", "divide_v6m.S"),
        ),
        **_telescoping("v6m", "swiglu_s16", files=("swiglu_v6m.S",)),
        "rmsnorm_s16": KernelVariant(
            "mg_rmsnorm_s16_v6m",
            ("kernels/v6m/rmsnorm.c", "kernels/v6m/norm_v6m.S", "kernels/v6m/divide_v6m.S", *_PORTABLE_NORM),
        ),
    },
)


def _dsp(*kernels: str, files: tuple[str, ...], products: tuple[str, ...] = ()) -> dict[str, KernelVariant]:
    """products: files of the same functions for one kind of these cores each."""
    sources = (*(f"kernels/dsp/{file}" for file in files), *(f"kernels/{file}" for file in products))
    return {kernel: KernelVariant(f"mg_{kernel}_dsp", sources) for kernel in kernels}


def _dsp_kernels(folder: str) -> dict[str, KernelVariant]:
    """folder: of the products of a matrix with one vector."""
    s8 = (f"{folder}/gemv_s8_{folder}.S", "dsp/gemm_s8_dsp.S")
    s4 = (f"{folder}/gemv_s4_{folder}.S", "dsp/gemm_s4_dsp.S", "dsp/gemv_s4_groups_dsp.S")
    scores, weights, values = (f"attention_{part}_dsp.S" for part in ("scores", "weights", "values"))
    return {
        **_dsp("embed_s16", files=("embed.c", "embed_dsp.S")),
        **_dsp("rmsnorm_s16", files=("rmsnorm.c", "rmsnorm_dsp.S")),
        **_dsp("block_s8", files=("block_dsp.S",)),
        **_dsp(*LINEAR, files=("linear.c", "vector.c", "matrix.c", "finish_dsp.S"), products=s8),
        **_dsp(*LINEAR4, files=("linear4.c", "groups.c", "vector.c", "matrix.c", "finish_dsp.S"), products=s4),
        **_dsp("rope_s16", "rope_s8", files=("rope_dsp.S",)),
        **_dsp("attention_s16", files=("attention.c", scores, weights, values, "tables_dsp.c")),
        **_dsp("swiglu_s16", files=("swiglu_dsp.S", "tables_dsp.c"), products=("swiglu.c",)),
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
    kernels=_dsp_kernels("dsp"),
)
DSP7 = replace(DSP, name="dsp7", needs=frozenset({"dsp", "dual_issue"}), kernels=_dsp_kernels("dsp7"))

# The most specialised first.
FAMILIES: tuple[Family, ...] = (MVE, DSP7, DSP, RV32, V7M, V6M, Family("portable"))


def family_named(name: str) -> Family:
    """The family of that name."""
    return next(family for family in FAMILIES if family.name == name)


def choose_family(features: frozenset[str]) -> Family:
    """The first family whose needs are among the core's features."""
    return next(family for family in FAMILIES if family.needs <= features)
