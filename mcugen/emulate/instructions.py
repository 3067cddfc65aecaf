"""How long an instruction is and what kind of work it does: as much of the encodings as counts and cycles need.

Sources: Armv7-M Architecture Reference Manual, A5; Armv8-M Architecture Reference Manual, C2 (low-overhead loops);
RISC-V Instruction Set Manual, volume I, chapters "RV32I" and "C".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "other",  # moves, sums, logic, shifts, comparisons
    "multiply",  # 32-bit result
    "accumulate",  # multiply and add or subtract, 32-bit result
    "long multiply",  # 64-bit result, or its upper half
    "divide",
    "load",  # of 1, 2 or 4 bytes
    "store",
    "load words",  # of several registers
    "store words",
    "jump",  # always taken: calls and returns among them
    "jump back",  # conditional, to a lower address: the end of a loop
    "jump ahead",  # conditional, to a higher address
    "loop end",  # Armv8.1-M's LE and LETP
    "vector",  # Helium, and floating point, which the firmware does not use
]


@dataclass(frozen=True, slots=True)
class Instruction:
    """size: bytes. words: registers that "load words" and "store words" transfer; else 0. returns: it also jumps."""

    size: int
    kind: Kind
    words: int = 0
    returns: bool = False


def instruction_size(first: int, riscv: bool) -> int:
    """Bytes of an instruction, 2 or 4, from its first halfword. Twin: instruction_size in profile_hook.c."""
    return 4 if (first & 3 == 3 if riscv else first >> 11 >= 0x1D) else 2


def decode(code: bytes, riscv: bool) -> Instruction:
    """Classify the instruction that `code`, at least as many bytes as it has, begins with."""
    first = int.from_bytes(code[:2], "little")
    second = int.from_bytes(code[2:4], "little")
    if instruction_size(first, riscv) == 2:
        return _compressed(first) if riscv else _thumb16(first)
    return _rv32(first | second << 16) if riscv else _thumb32(first, second)


def _thumb16(h: int) -> Instruction:
    group = h >> 12
    kind: Kind = "other"
    if group == 0x4:
        if h >> 11 == 0b01001:
            kind = "load"  # literal
        elif h >> 8 == 0x47 or (h & 0xFD87) == 0x4487:  # BX, BLX; ADD and MOV to pc
            kind = "jump"
        elif h >> 6 == 0b0100001101:
            kind = "multiply"
    elif group == 0x5:
        kind = "load" if h >> 9 & 7 >= 3 else "store"
    elif group in (0x6, 0x7, 0x8, 0x9):
        kind = "load" if h & 0x800 else "store"
    elif (h & 0xFE00) == 0xB400:
        return Instruction(2, "store words", (h & 0x1FF).bit_count())  # PUSH
    elif (h & 0xFE00) == 0xBC00:
        return Instruction(2, "load words", (h & 0x1FF).bit_count(), returns=bool(h & 0x100))  # POP
    elif (h & 0xF500) == 0xB100:
        kind = "jump ahead"  # CBZ, CBNZ
    elif group == 0xC:
        return Instruction(2, "load words" if h & 0x800 else "store words", (h & 0xFF).bit_count())
    elif group == 0xD and h & 0xF00 < 0xE00:
        kind = "jump back" if h & 0x80 else "jump ahead"
    elif group == 0xE:
        kind = "jump"
    return Instruction(2, kind)


def _thumb32(h: int, second: int) -> Instruction:
    if h & 0xEC00 == 0xEC00:  # coprocessors: floating point and vectors
        return Instruction(4, "vector")
    if h >> 11 == 0b11110:
        return Instruction(4, _thumb32_branch(h, second) if second & 0x8000 else "other")
    if h >> 9 == 0b1110100:
        return _thumb32_words(h, second)
    if h >> 9 == 0b1111100:
        if not h & 0x10:
            return Instruction(4, "store")
        return Instruction(4, "load", returns=second >> 12 == 15 and h & 0x60 == 0x40)
    if h >> 7 == 0b111110110:
        plain = second >> 12 == 15 or h & 0xF0 == 0x70  # no accumulator; USAD8 and USADA8 count so, too
        return Instruction(4, "multiply" if plain else "accumulate")
    if h >> 7 == 0b111110111:
        return Instruction(4, "divide" if h & 0xF0 in (0x90, 0xB0) else "long multiply")
    return Instruction(4, "other")


def _thumb32_words(h: int, second: int) -> Instruction:
    """Load and store multiple, dual, exclusive; table branches."""
    if h & 0xFFF0 == 0xE8D0 and second & 0xFFE0 == 0xF000:
        return Instruction(4, "jump")  # TBB, TBH
    kind: Kind = "load words" if h & 0x10 else "store words"
    if h & 0x40:
        if h & 0x120 == 0 or h & 0xFFF0 == 0xE8D0:  # LDREX, STREX and their kin: one word
            return Instruction(4, "load" if h & 0x10 else "store")
        return Instruction(4, kind, 2)
    return Instruction(4, kind, second.bit_count(), returns=kind == "load words" and bool(second & 0x8000))


def _thumb32_branch(h: int, second: int) -> Kind:
    """Branches and miscellaneous control."""
    where = second >> 12 & 5
    if where == 4:  # Armv8.1-M: LE, LETP; WLS and DLS set a loop up
        return "loop end" if h in (0xF00F, 0xF02F, 0xF01F) else "other"
    if where:
        return "jump"  # B, BL
    if h & 0x380 == 0x380:
        return "other"  # MSR, MRS, hints and barriers
    return "jump back" if h & 0x400 else "jump ahead"


def _rv32(word: int) -> Instruction:
    kind: Kind = "other"
    match word & 0x7F:
        case 0x03:
            kind = "load"
        case 0x23:
            kind = "store"
        case 0x63:
            kind = "jump back" if word >> 31 else "jump ahead"
        case 0x67 | 0x6F:
            kind = "jump"
        case 0x33 if word >> 25 == 1:
            operation = word >> 12 & 7
            kind = "divide" if operation >= 4 else "long multiply" if operation else "multiply"
    return Instruction(4, kind)


def _compressed(h: int) -> Instruction:
    kind: Kind = "other"
    match h & 3, h >> 13:
        case (0, 2) | (2, 2):
            kind = "load"
        case (0, 6) | (2, 6):
            kind = "store"
        case (1, 1) | (1, 5):
            kind = "jump"
        case (1, 6) | (1, 7):
            kind = "jump back" if h & 0x1000 else "jump ahead"
        case (2, 4) if h & 0x7C == 0 and h & 0xF80:
            kind = "jump"  # C.JR, C.JALR
    return Instruction(2, kind)
