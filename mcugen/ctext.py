"""C identifiers, literals and arrays as text."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_LINE = 112  # characters, indentation included

C_TYPES = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "uint8": "uint8_t", "uint16": "uint16_t",
           "uint32": "uint32_t"}  # fmt: skip


# Names that a model's files must not take: headers of the firmware and of C, main.c, and the prefix of the kernels.
RESERVED = frozenset(
    ("console", "fixedpoint", "generate", "kernels", "op_done", "port", "ring", "sampler", "tables", "tokenizer",
     "kernels_dsp", "kernels_mve", "kernels_rv32", "kernels_v6m", "kernels_v7m", "key_quads", "matrix", "tables_dsp",
     "attention_dsp", "row_digits", "vectors_mve", "mcugen_ops", "tflite_file", "kernel_util", "micro_interpreter",
     "micro_op_resolver", "micro_mutable_op_resolver", "schema_generated", "stddef", "stdint", "stdio", "main", "mg",
     "split", "tokenizer_pairs", "attention", "stm32", "second_core", "build_id", "memories")
)  # fmt: skip


def identifier(name: str) -> str:
    """A valid C identifier in lower case: "layers.0.wq" -> "layer0_wq", "stories260K" -> "stories260k"."""
    name = re.sub(r"^layers\.(\d+)", r"layer\1", name.lower())
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"model_{name}" if not name or name[0].isdigit() else name


def model_prefix(name: str) -> str:
    """What a model's C names and files begin with: its identifier, or "model_" and that where it is taken."""
    prefix = identifier(name)
    return f"model_{prefix}" if prefix in RESERVED else prefix


def array_body(values: NDArray[np.integer]) -> str:
    """The initialiser of an array: indented lines of numbers, right-aligned; decimal, but for packed words."""
    if values.dtype == np.uint32 and values.max() >> 24:
        texts = [f"0x{v:08X}u" for v in values.ravel().tolist()]
    elif values.dtype == np.int32:  # -2147483648 is no int literal in C
        texts = ["INT32_MIN" if v == -(2**31) else str(v) for v in values.ravel().tolist()]
    else:
        suffix = "u" if values.dtype.kind == "u" else ""
        texts = [f"{v}{suffix}" for v in values.ravel().tolist()]
    width = max(map(len, texts))
    per_line = max(1, (_LINE - 4 + 1) // (width + 2))
    cells = [text.rjust(width) for text in texts]
    lines = (cells[i : i + per_line] for i in range(0, len(cells), per_line))
    return "\n".join("    " + ", ".join(line) + "," for line in lines)


def string_literal(text: str) -> str:
    """A C string literal; whatever is not printable ASCII becomes an octal escape."""
    escaped = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return '"' + "".join(escaped) + '"'


def wrapped(items: Iterable[str], indent: int) -> str:
    """Items joined by commas, broken into indented lines."""
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) + 3 > _LINE - indent:
            lines.append(line + ",")
            line = ""
        line = f"{line}, {item}" if line else item
    return ("\n" + " " * indent).join([*lines, line])
