"""The formats that flash tools take, of one ELF: UF2 read back by hand (bin and hex: test_toolchain.py)."""

from __future__ import annotations

import struct

from projects import project, require

from mcugen.boards import load_board
from mcugen.images import to_bin, to_uf2
from mcugen.toolchain import build

FAMILY = 0xE48BFF56
# A byte far from the rest of the image: pages in between hold nothing.
SCRIPT = (b".image : { KEEP(*(.image)) } > FLASH", b".image 0x10004321 : { KEEP(*(.far)) } > FLASH")
FAR = b'extern const char far_away;\n__attribute__((section(".far"), used)) const char far_away = 7;\n'
MAIN = b"int main(void);\nint main(void)\n{\n    return 0;\n}\n"


def test_uf2_has_each_page_with_bytes_of_the_image() -> None:
    board = load_board("pico")
    made = project(board, far=FAR, main=MAIN)
    script = made.files["linker.ld"]
    assert script.count(SCRIPT[0]) == 1
    made.files["linker.ld"] = script.replace(*SCRIPT).replace(b".text :", b".text 0x10008000 :")
    elf = build(made, require("auto", board)).image
    image = to_bin(elf)
    content = to_uf2(elf, FAMILY)
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    pages: dict[int, bytes] = {}
    for number, block in enumerate(blocks):
        magic, second, flags, address, size, index, count, family = struct.unpack_from("<8I", block)
        assert (magic, second, flags, size, family) == (0x0A324655, 0x9E5D5157, 0x2000, 256, FAMILY)
        assert (index, count) == (number, len(blocks))
        assert block[32 + 256 : 508] == bytes(220)
        assert block[508:] == (0x0AB16F30).to_bytes(4, "little")
        pages[address] = block[32 : 32 + 256]
    assert list(pages) == sorted(pages)
    assert all(address % 256 == 0 for address in pages)
    assert pages[0x10004300][0x21] == 7
    for address in range(0x10000000, 0x10000000 + len(image), 256):
        expected = image[address - 0x10000000 :][:256].ljust(256, b"\xff")
        assert pages.pop(address, b"\xff" * 256) == expected
    assert not pages
    assert len(blocks) < len(image) // 256  # the gaps are left out
