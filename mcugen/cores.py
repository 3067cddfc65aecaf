"""The processor cores that mcugen compiles for, and what each compiler calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Core:
    """One core in the words of GCC and of zig (clang).

    features: what a board may state of it. zig's CPU names hold none of them, GCC's hold all but the FPU.
    gcc_fpu, zig_fpu: the floating-point unit, where a board has one.
    zig_dsp: likewise the DSP extension, where the architecture makes it optional.
    Sources: GCC manual, section "ARM Options"; LLVM, llvm/lib/Target/ARM/ARMProcessors.td.
    """

    features: frozenset[str]
    gcc_cpu: str = ""
    gcc_fpu: str = ""
    zig_cpu: str = ""
    zig_fpu: str = ""
    zig_dsp: str = ""


_NONE: frozenset[str] = frozenset()
_DSP_FPU = frozenset({"dsp", "fpu"})

CORES: Mapping[str, Core] = {
    "cortex-m0plus": Core(_NONE, "cortex-m0plus", zig_cpu="cortex_m0plus"),
    "cortex-m3": Core(_NONE, "cortex-m3", zig_cpu="cortex_m3"),
    "cortex-m4": Core(_DSP_FPU, "cortex-m4", "fpv4-sp-d16", "cortex_m4", "+vfp4d16sp"),
    "cortex-m7": Core(_DSP_FPU, "cortex-m7", "fpv5-d16", "cortex_m7", "+fp_armv8d16"),
    "cortex-m33": Core(_DSP_FPU, "cortex-m33", "fpv5-sp-d16", "cortex_m33", "+fp_armv8d16sp", "+dsp"),
    "host": Core(_NONE),
}


def gcc_core_flags(name: str, features: frozenset[str]) -> list[str]:
    """Return the flags that make GCC compile for core `name` with `features`; none for the host."""
    core = CORES[name]
    if not core.gcc_cpu:
        return []
    # GCC takes the Cortex-M33's DSP extension for granted; the others have it, or not, by architecture.
    dsp = "+nodsp" if core.zig_dsp and "dsp" not in features else ""
    if "fpu" in features:
        return [f"-mcpu={core.gcc_cpu}{dsp}", "-mthumb", f"-mfpu={core.gcc_fpu}", "-mfloat-abi=hard"]
    return [f"-mcpu={core.gcc_cpu}{dsp}", "-mthumb", "-mfloat-abi=soft"]


def zig_core_flags(name: str, features: frozenset[str]) -> list[str]:
    """Return the flags that make `zig cc` compile for core `name` with `features`; none for the host."""
    core = CORES[name]
    if not core.zig_cpu:
        return []
    dsp = core.zig_dsp if "dsp" in features else ""
    if "fpu" in features:
        return ["-target", "thumb-freestanding-eabihf", f"-mcpu={core.zig_cpu}{core.zig_fpu}{dsp}"]
    return ["-target", "thumb-freestanding-eabi", f"-mcpu={core.zig_cpu}{dsp}"]
