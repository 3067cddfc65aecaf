"""TVM's C as C that stands alone: no headers of its runtime, read-only pointers const, one name per value."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcugen.errors import InternalError
from mcugen.microtvm.functions import Function
from mcugen.microtvm.intrinsics import INTRINSIC_DECLARATIONS

_HEAD = """\
/* Kernels made by Apache TVM {version} out of TIR. One function per kernel and sizes; what a call passes differs. */
#include <stdint.h>
"""

_DECLARED = re.compile(r"^TVM_DLL (\w+\*? (\w+)\([^{;]*\));$", re.MULTILINE)
_DEFINED = re.compile(r"^TVM_DLL void (\w+)\([^{;]*\) \{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_RENAMED = re.compile(r"^ *\w+ (\w+) = (cse_v\d+);\n", re.MULTILINE)
_NAMED = re.compile(r"^ *u?int\d+_t (\w+) = (?:(?!\w\()[^\n])*;\n", re.MULTILINE)  # by no call
_KEPT = re.compile(r"^ *\w+ v_\w* = .*?(\w+)\[", re.MULTILINE)  # an operand of min or max that is read of an array
_INTRODUCED = re.compile(r"^(?:\w[\w ]* \*?(\w+)\(|\} (\w+);)", re.MULTILINE)  # a function or a type
_NOTHING = re.compile(r"^ *(?:#pragma unroll 1|(\S+) = \1;)\n", re.MULTILINE)


def tidy(functions: Sequence[Function], texts: Sequence[str], prefix: str, version: str) -> str:
    """One C file of the texts that TVM made of the functions, in their order.

    Raises InternalError where a text is not what this module knows how to read.
    """
    declared: dict[str, str] = {}
    bodies = []
    for function, text in zip(functions, texts, strict=True):
        symbol = f"{prefix}{function.name}"
        definitions = _DEFINED.findall(text)
        if [name for name, _ in definitions] != [symbol]:
            raise InternalError("TVM's C has other functions than it was given", where=symbol)
        written = {p.name for p in function.parameters if not p.const}
        for array in _KEPT.findall(definitions[0][1]):
            if array.endswith("_ptr") or array in written:
                raise InternalError(f"TVM keeps what min or max read of {array}, which changes", where=symbol)
        declared |= {name: prototype for prototype, name in _DECLARED.findall(text) if name != symbol}
        bodies.append(f"{function.prototype(prefix)}\n{{\n{_readable(definitions[0][1])}}}\n")
    declarations = _declarations(sorted({f.intrinsics for f in functions}), bodies)
    unknown = [name for name in declared if not re.search(rf"\b{name}\(", declarations)]
    if unknown:
        raise InternalError(f"TVM's C calls what nothing declares: {', '.join(unknown)}", where="Apache TVM")
    source = "\n".join([_HEAD.format(version=version), *filter(None, [declarations]), *bodies])
    if "TVM_" in source or "tvm_ffi" in source:
        raise InternalError("TVM's C needs its runtime", where="Apache TVM")
    return source


def _declarations(intrinsics: Sequence[str], bodies: Sequence[str]) -> str:
    """The paragraphs of what intrinsics declare that the functions, or later ones of those paragraphs, use."""
    paragraphs = "\n".join(INTRINSIC_DECLARATIONS[name] for name in intrinsics).strip().split("\n\n")
    used, kept = "\n".join(bodies), list[str]()
    for paragraph in reversed(paragraphs):
        if any(re.search(rf"\b{name}\b", used) for pair in _INTRODUCED.findall(paragraph) for name in pair if name):
            kept.insert(0, f"{paragraph}\n")
            used += paragraph
    return "\n".join(kept)


def _readable(body: str) -> str:
    """Give the values that TVM found to be the same the name that the kernel gave them; drop what nothing uses."""
    body = _NOTHING.sub("", body)
    while found := _RENAMED.search(body):
        name, value = found.groups()
        body = re.sub(rf"\b{value}\b", name, body[: found.start()] + body[found.end() :])
    while unused := next((m for m in _NAMED.finditer(body) if len(re.findall(rf"\b{m[1]}\b", body)) == 1), None):
        body = body[: unused.start()] + body[unused.end() :]
    return re.sub(r"^( +)", lambda m: m[1] * 2, body, flags=re.MULTILINE)
