"""The processor cores that mcugen compiles for, and what each compiler calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Core:
    """One core in the words of GCC and of zig (clang).

    features: what a board may state of it. zig's CPU names hold none of them, GCC's hold all but the FPU.
    inherent: what it always has, in the words by which kernel variants are chosen. "v6m", "v7m": the instructions of
        Armv6-M, those of Armv7-M's base, which Armv8-M Mainline has, too; "dual_issue": two instructions at a time.
    gcc_fpu, zig_fpu: the floating-point unit, where a board has one.
    zig_dsp: likewise the DSP extension, where the architecture makes it optional.
    zig_mve: likewise the vector extension, Helium. The firmware's vectors hold integers.
    family: whose start-up code it runs, a folder of firmware/ports/: "cortex_m", "riscv", or "" for the host. "rv32"
        among the inherent features is the base instruction set of the latter, of 32 bits, with M and C.
    Sources: GCC manual, sections "ARM Options" and "RISC-V Options"; LLVM, llvm/lib/Target/ARM/ARMProcessors.td and
    llvm/lib/Target/RISCV/RISCVProcessors.td.
    """

    features: frozenset[str]
    inherent: frozenset[str]
    gcc_cpu: str = ""
    gcc_fpu: str = ""
    zig_cpu: str = ""
    zig_fpu: str = ""
    zig_dsp: str = ""
    zig_mve: str = ""
    family: str = "cortex_m"


_NONE: frozenset[str] = frozenset()
_DSP_FPU = frozenset({"dsp", "fpu"})
_V6M = frozenset({"v6m"})
_V7M = frozenset({"v7m"})
_VECTOR_REGISTERS = frozenset({"fpu", "mve"})  # either brings the registers that the hard-float ABI passes values in

CORES: Mapping[str, Core] = {
    "cortex-m0": Core(_NONE, _V6M, "cortex-m0", zig_cpu="cortex_m0"),
    "cortex-m0plus": Core(_NONE, _V6M, "cortex-m0plus", zig_cpu="cortex_m0plus"),
    "cortex-m3": Core(_NONE, _V7M, "cortex-m3", zig_cpu="cortex_m3"),
    "cortex-m4": Core(_DSP_FPU, _V7M, "cortex-m4", "fpv4-sp-d16", "cortex_m4", "+vfp4d16sp"),
    "cortex-m7": Core(_DSP_FPU, _V7M | {"dual_issue"}, "cortex-m7", "fpv5-d16", "cortex_m7", "+fp_armv8d16"),
    "cortex-m33": Core(_DSP_FPU, _V7M, "cortex-m33", "fpv5-sp-d16", "cortex_m33", "+fp_armv8d16sp", "+dsp"),
    # DSP instructions are no option of the Cortex-M55 (TRM 101051, "Implementation options").
    "cortex-m55": Core(
        frozenset({"fpu", "mve"}), _V7M | {"dsp"}, "cortex-m55", "auto", "cortex_m55", "+fp_armv8d16", zig_mve="+mve"
    ),
    "rv32imc": Core(_NONE, frozenset({"rv32"}), "rv32imc", zig_cpu="generic_rv32+m+c", family="riscv"),
    "host": Core(_NONE, _NONE, family=""),
}

# Family -> what the names of its GCC begin with, and the Debian package that has it.
GCC_PREFIXES: Mapping[str, str] = {"cortex_m": "arm-none-eabi-", "riscv": "riscv64-unknown-elf-"}
GCC_PACKAGES: Mapping[str, str] = {"cortex_m": "gcc-arm-none-eabi", "riscv": "gcc-riscv64-unknown-elf"}


def gcc_core_flags(name: str, features: frozenset[str]) -> list[str]:
    """Return the flags that make GCC compile for core `name` with `features`; none for the host."""
    core = CORES[name]
    if not core.gcc_cpu:
        return []
    if core.family == "riscv":
        return [f"-march={core.gcc_cpu}_zicsr", "-mabi=ilp32"]  # zicsr: the start-up code writes mtvec
    # GCC takes the Cortex-M33's DSP extension for granted, and all that a Cortex-M55 can have.
    options = {"dsp": core.zig_dsp and "+nodsp", "fpu": core.zig_mve and "+nofp", "mve": core.zig_mve and "+nomve"}
    without = "".join(option for feature, option in options.items() if feature not in features)
    if features & _VECTOR_REGISTERS:
        return [f"-mcpu={core.gcc_cpu}{without}", "-mthumb", f"-mfpu={core.gcc_fpu}", "-mfloat-abi=hard"]
    return [f"-mcpu={core.gcc_cpu}{without}", "-mthumb", "-mfloat-abi=soft"]


def gcc_link_core_flags(name: str, features: frozenset[str]) -> list[str]:
    """Return the same for linking."""
    core = CORES[name]
    if core.family == "riscv":
        return [f"-march={core.gcc_cpu}", "-mabi=ilp32"]  # GCC 12 finds no libgcc for a name with zicsr in it
    return gcc_core_flags(name, features)


def zig_core_flags(name: str, features: frozenset[str]) -> list[str]:
    """Return the flags that make `zig cc` compile for core `name` with `features`; none for the host."""
    core = CORES[name]
    if not core.zig_cpu:
        return []
    if core.family == "riscv":
        return ["-target", "riscv32-freestanding-none", f"-mcpu={core.zig_cpu}", "-mabi=ilp32"]
    optional = {"fpu": core.zig_fpu, "dsp": core.zig_dsp, "mve": core.zig_mve}
    cpu = core.zig_cpu + "".join(option for feature, option in optional.items() if feature in features)
    abi = "eabihf" if features & _VECTOR_REGISTERS else "eabi"
    return ["-target", f"thumb-freestanding-{abi}", f"-mcpu={cpu}"]
