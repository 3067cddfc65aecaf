"""An ELF's loaded bytes in the formats that flash tools and boot drives take."""

from __future__ import annotations

import io
import struct

from elftools.elf.elffile import ELFFile
from intelhex import IntelHex

# UF2: a file of blocks, each of which says where its page goes. Source: Microsoft, "USB Flashing Format (UF2)".
_UF2_BEGIN = (0x0A324655, 0x9E5D5157)
_UF2_END = 0x0AB16F30
_UF2_HAS_FAMILY = 0x2000
_UF2_DATA = 476  # bytes of a block between its header and its end
_PAGE = 256  # bytes of flash in a block: what the RP2040's and RP2350's boot ROMs take


def to_hex(elf: bytes) -> bytes:
    """Return the image as Intel HEX, at its load addresses."""
    text = io.StringIO()
    _memory(elf).write_hex_file(text)
    return text.getvalue().encode("ascii")


def to_bin(elf: bytes) -> bytes:
    """Return the image as the bytes from its first load address to its last; gaps read 0xFF, as erased flash does."""
    return bytes(_memory(elf).tobinstr())


def to_uf2(elf: bytes, family: int) -> bytes:
    """Return the image as UF2 for the chips of a family (32 bits): every page of 256 B that the ELF has bytes in."""
    memory = _memory(elf)
    pages = sorted({page for start, end in memory.segments() for page in range(start & -_PAGE, end, _PAGE)})
    blocks = []
    for number, page in enumerate(pages):
        head = (*_UF2_BEGIN, _UF2_HAS_FAMILY, page, _PAGE, number, len(pages), family)
        data = memory.tobinstr(start=page, size=_PAGE).ljust(_UF2_DATA, b"\0")
        blocks.append(struct.pack("<8I", *head) + data + struct.pack("<I", _UF2_END))
    return b"".join(blocks)


def _memory(elf: bytes) -> IntelHex:
    memory = IntelHex()
    for segment in ELFFile(io.BytesIO(elf)).iter_segments("PT_LOAD"):
        if segment["p_filesz"]:
            memory.puts(segment["p_paddr"], segment.data())
    return memory
