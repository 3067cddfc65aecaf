"""What the machines need to know of an ELF file: segments to load, symbols, and whose address is whose."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from mcugen.errors import InputError, ToolError


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    address: int  # of a Thumb function: without the Thumb bit
    size: int  # bytes; 0 for a linker symbol
    is_function: bool
    is_global: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes that a flash tool programs at their physical address."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Elf:
    """segments: non-empty PT_LOAD contents. symbols: sorted by address, larger first, then by name.

    machine: "EM_ARM" or another name of the ELF specification. occupied: (address, bytes) of what a program uses, its
    zeroed memory and stack included. code: (address, bytes) of what it may execute.
    """

    segments: tuple[Segment, ...]
    symbols: tuple[Symbol, ...]
    machine: str = ""
    occupied: tuple[tuple[int, int], ...] = ()
    code: tuple[tuple[int, int], ...] = ()

    def symbol(self, name: str) -> Symbol:
        """Return the symbol of that name; a global one wins over a static one.

        Raises ToolError if there is none, or several static ones.
        """
        found = [symbol for symbol in self.symbols if symbol.name == name]
        found = [symbol for symbol in found if symbol.is_global] or found
        if len(found) == 1:
            return found[0]
        what = f"the firmware has {len(found)} symbols named {name}" if found else f"the firmware has no {name}"
        hint = "give the static ones different names" if found else "check the name, and that --gc-sections keeps it"
        raise ToolError(what, where="symbol table of the ELF", hint=hint)

    def has(self, name: str) -> bool:
        return any(symbol.name == name for symbol in self.symbols)


def parse_elf(image: bytes) -> Elf:
    """Read an ELF file. Raises InputError if it is none, or is stripped."""
    try:
        file = ELFFile(io.BytesIO(image))
        table = file.get_section_by_name(".symtab") or file.get_section_by_name(".dynsym")
        segments = tuple(
            Segment(part["p_paddr"], part.data())
            for part in file.iter_segments()
            if part["p_type"] == "PT_LOAD" and part["p_filesz"]
        )
        machine = str(file["e_machine"])
        loaded = file.iter_segments("PT_LOAD")
        occupied = tuple((part["p_vaddr"], part["p_memsz"]) for part in loaded if part["p_memsz"])
        parts = (s for s in file.iter_sections() if s["sh_flags"] & SH_FLAGS.SHF_EXECINSTR and s["sh_size"])
        code = tuple((s["sh_addr"], s["sh_size"]) for s in parts)
    except ELFError as error:
        raise InputError(
            f"{len(image)} bytes are not an ELF file ({error})", where="firmware", hint="pass the linked .elf file"
        ) from error
    if table is None:
        raise InputError("the ELF has no symbol table", where="firmware", hint="link it without -s or --strip-all")
    symbols = [_symbol(entry, machine == "EM_ARM") for entry in table.iter_symbols() if _is_defined(entry)]
    ordered = tuple(sorted(symbols, key=lambda s: (s.address, -s.size, s.name)))
    return Elf(segments, ordered, machine, occupied, code)


class AddressBook:
    """Whose address is this? Symbols that have a size, looked up by bisection."""

    def __init__(self, elf: Elf) -> None:
        self._symbols = [symbol for symbol in elf.symbols if symbol.size]
        self._starts = [symbol.address for symbol in self._symbols]

    def owner(self, address: int) -> Symbol | None:
        """Return the function or object that the address lies in."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        symbol = self._symbols[index]
        return symbol if address < symbol.address + symbol.size else None

    def name(self, address: int) -> str:
        """Return "symbol+0xoffset", or the bare address where no symbol is."""
        symbol = self.owner(address)
        return f"{symbol.name}+{address - symbol.address:#x}" if symbol else f"{address:#010x}"


def _is_defined(entry: Any) -> bool:
    named = entry.name and not entry.name.startswith("$")  # $t, $d: Arm's mapping symbols
    return bool(named) and entry["st_shndx"] != "SHN_UNDEF" and entry["st_info"]["type"] != "STT_FILE"


def _symbol(entry: Any, thumb: bool) -> Symbol:
    kind: str = entry["st_info"]["type"]
    value: int = entry["st_value"]
    is_function = kind == "STT_FUNC"
    return Symbol(
        name=entry.name,
        address=value & ~1 if thumb and is_function else value,
        size=entry["st_size"],
        is_function=is_function,
        is_global=entry["st_info"]["bind"] != "STB_LOCAL",
    )
