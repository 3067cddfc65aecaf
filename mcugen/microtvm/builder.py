"""What every TIR function is written with: typed arrays, integers of 32 bits, loops, fixed point.

As in C, a load of a narrow integer is an int32, and a store keeps the low bits. TVM reorders sums and assumes that
an int32 never overflows: each kernel proves that it does not. It also takes what was a uint32 to be no less than 0 as
an int32. Only imported where Apache TVM is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from mcugen.microtvm.functions import Function

Expr = Any  # a TIR expression, or a Python int


class Array:
    """Memory behind a pointer, or of a function's own, read and written by index."""

    def __init__(self, data: Any, dtype: str, buffer: Any, size: int = 0) -> None:
        """size: of a function's own."""
        self.size = size
        self._data = data
        self._dtype = dtype
        self._buffer = buffer

    def __getitem__(self, index: Expr) -> Expr:
        value = T.BufferLoad(self._buffer, [index])
        return value if self._dtype in ("int32", "uint32", "int64") else T.cast(value, "int32")

    def __setitem__(self, index: Expr, value: Expr) -> None:
        T.buffer_store(self._buffer, cast(self._dtype, value), [index])

    def viewed(self, dtype: str) -> Array:
        """The same memory as elements of another type, to which it must be aligned."""
        return Array(self._data, dtype, T.decl_buffer((1,), dtype, data=self._data))

    def address(self, index: Expr) -> Expr:
        """The pointer to an element, for a call."""
        return T.address_of(T.BufferLoad(self._buffer, [index]))


def prim_func(function: Function, symbol: str, body: Callable[..., None]) -> Any:
    """The PrimFunc of a function: `body` is called with its parameters by name, pointers as Arrays."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_attr({"global_symbol": symbol})
            given = {}
            for p in function.parameters:
                kind = T.handle(p.dtype) if p.pointer else tirx.Var(p.name, p.dtype)
                given[p.name] = (p, T.arg(p.name, kind))
            body(
                **{
                    name: Array(arg, p.dtype, T.decl_buffer((1,), p.dtype, data=arg)) if p.pointer else arg
                    for name, (p, arg) in given.items()
                }
            )
        return builder.get()


# ---------------------------------------------------------------- statements


def local(name: str, dtype: str, size: int) -> Array:
    """Memory on the stack; with constant indices alone, registers."""
    buffer = T.alloc_buffer((size,), dtype)
    IRBuilder.name(name, buffer)
    return Array(buffer.data, dtype, buffer, size)


def variable(name: str, value: Expr, dtype: str = "int32") -> Array:
    """A number that changes: read and written at index 0."""
    array = local(name, dtype, 1)
    array[0] = value
    return array


def let(name: str, value: Expr, dtype: str = "int32") -> Expr:
    """A name for a value."""
    return T.bind(cast(dtype, value), var=tirx.Var(name, dtype))


def computed(name: str, value: Expr) -> Expr:
    """A name for a value that TVM does not write out again wherever it is used."""
    return let(name, variable(name, value)[0])


@contextmanager
def loop(name: str, count: Expr) -> Iterator[Expr]:
    """for (name = 0; name < count; name++)."""
    with T.serial(count) as counter:
        IRBuilder.name(name, counter)
        yield counter


def unrolled(name: str, count: int, by: int, body: Callable[[Expr], None]) -> None:
    """body(i) for every i below count, `by` of them at a time."""
    if count == by:
        for i in range(count):
            body(i)
        return
    if count >= by:
        with loop(name, count // by) as step:
            first = let(f"{name}_first", step * by)
            for i in range(by):
                body(first + i)
    for i in range(count // by * by, count):
        body(i)


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


def raise_to(number: Array, value: Expr) -> None:
    """number = the larger of the two."""
    with when(number[0] < value):
        number[0] = value


# ---------------------------------------------------------------- expressions


def cast(dtype: str, value: Expr) -> Expr:
    if isinstance(value, int):
        return tirx.const(value, dtype)
    return T.cast(value, dtype)


def choose(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """yes or no; both may be computed."""
    return tirx.Select(condition, yes, no)


# TVM's C keeps what maximum and minimum read for as long as it looks the same, whatever was stored since: their
# operands must not be memory that a kernel writes. ctidy checks that.


def absolute(x: Expr) -> Expr:
    return maximum(x, 0 - x)


def bit_and(x: Expr, mask: Expr) -> Expr:
    return T.bitwise_and(x, mask)


def bit_or(x: Expr, y: Expr) -> Expr:
    return T.bitwise_or(x, y)


def divide(x: Expr, y: Expr) -> Expr:
    """x / y, for x >= 0 and y > 0."""
    return T.truncdiv(x, y)


def maximum(x: Expr, y: Expr) -> Expr:
    return T.max(x, y)


def minimum(x: Expr, y: Expr) -> Expr:
    return T.min(x, y)


def shift_left(x: Expr, bits: Expr) -> Expr:
    return T.shift_left(x, bits)


def shift_right(x: Expr, bits: Expr) -> Expr:
    return T.shift_right(x, bits)


def round_shift(x: Expr, bits: Expr) -> Expr:
    """x / 2**bits, half up; x plus half fits its type."""
    if isinstance(bits, int):
        return x if bits == 0 else shift_right(x + (1 << bits >> 1), bits)
    dtype = str(x.ty.dtype)
    half = shift_right(shift_left(cast(dtype, 1), cast(dtype, bits)), cast(dtype, 1))
    return shift_right(x + half, cast(dtype, bits))


def upper_word(x: Expr, factor: Expr, half: Expr) -> Expr:
    """(x * factor + half) >> 32 of int32 factors, in 64 bits: the int32 that it fits."""
    product = cast("int64", x) * cast("int64", factor)
    return cast("int32", shift_right(product + cast("int64", half), cast("int64", 32)))


def bit_length(x: Expr) -> Expr:
    """Bits needed to write a uint32."""
    rest, bits = variable("rest", x, "uint32"), variable("bits", 0)
    for half in (16, 8, 4, 2, 1):
        with when(shift_right(rest[0], cast("uint32", half)) != 0):
            rest[0] = shift_right(rest[0], cast("uint32", half))
            bits[0] = bits[0] + half
    return let("digits", bits[0] + cast("int32", rest[0]))


def saturate_s8(x: Expr) -> Expr:
    return maximum(minimum(x, 127), -127)


def saturate_s16(x: Expr, intrinsics: str = "") -> Expr:
    if intrinsics == "dsp":
        return call_pure("int32", "tvm_saturate_s16", x)
    return maximum(minimum(x, 2**15 - 1), -(2**15))


def call_pure(dtype: str, name: str, *arguments: Expr) -> Expr:
    """An instruction of mcugen.microtvm.intrinsics."""
    return T.call_pure_extern(dtype, name, *arguments)
