"""Matrices times vectors in TIR, and rows of the embedding table.

A function is written down as what it computes, and then scheduled. Without intrinsics, rows are taken four at a time,
so that they share the loads of x, and up to four columns. For "dsp", the products of a tile of rows become calls of
the kernels in firmware/kernels/dsp: each is a TensorIntrin, which TVM puts only where it finds what the intrinsic is
said to compute, on the stream of mcugen/packing/dsp.py. For "mve" the whole function is one call.

Only the emitter's subprocess imports this module, and with it Apache TVM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tvm.ir import IRModule, PointerType, PrimType, Var
from tvm.s_tir import Schedule, TensorIntrin
from tvm.s_tir.transform import StmtSimplify
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import DeclBuffer, PrimFunc, SeqStmt
from tvm.tirx.buffer import BufferType

from mcugen.microtvm.builder import cast, let, minimum, round_shift, saturate_s8, saturate_s16, upper_word
from mcugen.microtvm.functions import LINEAR, Function
from mcugen.packing.dsp import SCALE_ROWS

KERNELS = ("embed_s16", *LINEAR)

_BLOCK = 4  # rows that share the loads of x
_UNROLL = 4  # columns
_UNKNOWN = 1 << 30  # the length of an array that the function is not told

Arrays = Mapping[str, Any]


def prim_func(function: Function, described: bool = False) -> Any:
    """The tvm.tirx.PrimFunc of one of KERNELS, with raw pointers and integers as parameters.

    described: spell out what intrinsics compute instead of calling them.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(function.name)
        arrays = {
            p.name: T.arg(p.name, T.Buffer((_UNKNOWN,), p.dtype) if p.pointer else T.int32())
            for p in function.parameters
        }
        schedule = _write(function, arrays, described)
    simple = StmtSimplify()(IRModule({"main": builder.get()}))  # as TVM simplifies what intrinsics compute
    scheduled = Schedule(simple)
    schedule(scheduled)
    return _raw(scheduled.mod["main"])


def _write(function: Function, a: Arrays, described: bool) -> Callable[[Any], None]:
    """Write down what the function computes; returns what schedules it."""
    if function.kernel == "embed_s16":
        _embed(function, a)
    elif function.intrinsics == "dsp":
        matrix = _Dsp(function, a, described)
        matrix.write()
        return matrix.schedule
    elif function.intrinsics == "mve":
        _mve(function, a)
    else:
        _plain(function, a)
        return _schedule_plain
    return lambda _: None


def _raw(function: Any) -> Any:
    """With a pointer for every array that is a parameter."""
    parameters, declared = [], []
    for parameter in function.params:
        if isinstance(parameter.ty, BufferType):
            pointer = Var(parameter.name, PointerType(PrimType(str(parameter.ty.dtype))))
            declared.append(DeclBuffer(parameter, data=pointer))
            parameters.append(pointer)
        else:
            parameters.append(parameter)
    return PrimFunc(parameters, SeqStmt([*declared, function.body]), attrs=function.attrs)


def _int32(value: Any) -> Any:
    return cast("int32", value)


def _local(name: str, *shape: int, dtype: str = "int32") -> Any:
    """An array on the stack."""
    buffer = T.sblock_alloc_buffer(shape, dtype)
    IRBuilder.name(name, buffer)
    return buffer


@contextmanager
def _by_four(count: int) -> Iterator[Any]:
    """A loop of `count` turns, up to four of which are written down in one, as divides their number."""
    by = next(n for n in range(_BLOCK, 0, -1) if count % n == 0)
    with T.serial(count // by) as i, T.unroll(by) as j:
        yield i * by + j


# ---------------------------------------------------------------- output


def _write_output(function: Function, a: Arrays, acc: Any, row: Any) -> None:
    """Bring a row's accumulator to the output's units, and store it.

    (acc * multiplier * peak + 2**(shift - 1)) >> shift. |acc| < 2**(shift - 1) (lower.check_graph), so that
    acc * 2**(32 - shift) fits int32, and the output is the rounded upper word of its product with
    multiplier * peak <= 2**30: no more than 2**29, so that the residual can be added.
    """
    factor = _int32(a["multiplier"][row]) * a["scale"][0]
    value = upper_word(acc * T.shift_left(1, 32 - a["shift"]), factor, 1 << 31)
    if "residual" in a:
        value = value + _int32(a["residual"][row])
    value = let("value", value)  # read before it is compared: TVM's C keeps operands of min and max
    if "ring" in a:
        T.buffer_store(a["ring"], cast("int8", saturate_s8(value)), [a["slot"] * function["rows"] + row])
    elif function.kernel == "linear_s32":
        T.buffer_store(a["y"], value, [row])
    else:
        T.buffer_store(a["y"], cast("int16", saturate_s16(value)), [row])


# ---------------------------------------------------------------- row after row


def _plain(function: Function, a: Arrays) -> None:
    rows = function["rows"]
    whole = rows // _BLOCK * _BLOCK
    with T.sblock("root"):
        for some in (range(whole), range(whole, rows)):
            if some:
                with T.sblock("rows"):  # a scope of its own: in one, TVM schedules what one block writes
                    _plain_rows(function, a, some)


def _plain_rows(function: Function, a: Arrays, rows: range) -> None:
    """Rows of a row_major stream: sums of products, then outputs."""
    cols, group = function["cols"], function["group"]
    pieces = [(0, cols // group), (cols // group * group, 1)] if group and group < cols else [(0, 1)]
    sums = [_plain_products(function, a, rows, start, groups) for start, groups in pieces if start < cols]
    with _by_four(len(rows)) as i, T.sblock("output"):
        row = T.axis.spatial(len(rows), i)
        _write_output(function, a, sum(acc[row] for acc in sums), rows.start + row)


def _plain_products(function: Function, a: Arrays, rows: range, start: int, groups: int) -> Any:
    """acc int32[len(rows)] of `groups` groups of columns from `start` on; without group scales, of all columns.

    No part of a sum, in any order, is beyond kernels.accumulator_bound, which lower.check_graph holds below 2**31;
    that of a group is at most 64 * 8 * 127.
    """
    int4 = function.kernel.startswith("linear4")
    count, cols, group = len(rows), function["cols"], function["group"]
    width = min(group or cols, cols - start)
    pairs = (cols + 1) // 2
    stride = cols if not int4 else pairs if not group else pairs + -(-cols // group)

    def weight(row: Any, col: Any) -> Any:
        at = (rows.start + row) * stride
        if not int4:
            return _int32(a["codes"][at + col])
        pair = _int32(cast("int8", a["codes"][at + T.floordiv(col, 2)]))
        even = T.shift_right(_int32(T.shift_left(cast("uint32", pair), T.uint32(28))), 28)
        return T.Select(T.floormod(col, 2) == 0, even, T.shift_right(pair, 4))

    acc = _local("acc", count)
    if not group:
        with T.grid(count, width) as (i, k), T.sblock("products"):
            row, col = T.axis.spatial(count, i), T.axis.reduce(width, k)
            with T.init():
                T.buffer_store(acc, 0, [row])
            T.buffer_store(acc, acc[row] + weight(row, col) * _int32(a["x"][col]), [row])
        return acc
    part = _local("part", groups, count)
    with T.grid(groups, count, width) as (j, i, k), T.sblock("products"):
        g, row, col = T.axis.spatial(groups, j), T.axis.spatial(count, i), T.axis.reduce(width, k)
        at = start + g * group + col
        with T.init():
            T.buffer_store(part, 0, [g, row])
        T.buffer_store(part, part[g, row] + weight(row, at) * _int32(a["x"][at]), [g, row])
    with T.grid(count, groups) as (i, j), T.sblock("groups"):
        row, g = T.axis.spatial(count, i), T.axis.reduce(groups, j)
        scale = _int32(cast("int8", a["codes"][(rows.start + row) * stride + pairs + start // group + g]))
        with T.init():
            T.buffer_store(acc, 0, [row])
        T.buffer_store(acc, acc[row] + part[g, row] * scale, [row])
    return acc


def _schedule_plain(s: Any) -> None:
    """Four rows at a time, and in them column by column, several in one turn of the loop."""
    for scope in _blocks(s, "rows"):
        output = s.get_child_blocks(scope)[-1]
        tile, _ = s.get_loops(output)
        for producer in s.get_producers(output):
            s.compute_at(producer, tile, preserve_unit_loops=True)
            parts = s.get_producers(producer)
            loop = _unroll_rows(s, producer, 1 if parts else _UNROLL)
            for part in parts:
                s.compute_at(part, loop, preserve_unit_loops=True)
                _unroll_rows(s, part, _UNROLL)


def _unroll_rows(s: Any, block: Any, limit: int) -> Any:
    """Columns outside of rows, unrolled by what divides their number, up to `limit`; returns the loop of columns."""
    *_, rows, cols = s.get_loops(block)
    extent = int(s.get(cols).extent)
    step = next(n for n in range(limit, 0, -1) if extent % n == 0)
    outer, inner = s.split(cols, [None, step])
    s.reorder(outer, inner, rows)
    init = s.decompose_reduction(block, outer)
    for loop in (inner, rows, s.get_loops(init)[-1]):
        s.unroll(loop)
    return outer


def _blocks(s: Any, name: str) -> list[Any]:
    children = s.get_child_blocks(s.get_sblock("root"))
    return [block for block in children if s.get(block).name_hint == name]


# ---------------------------------------------------------------- nested digits, for cores with DSP instructions

_TILE = 64  # rows whose accumulators lie on the stack
_CHUNK_TILE = 32  # where the packing cuts columns into chunks, and mcugen/packing/dsp.py rows into tiles of these
_SUBGROUP = 32  # columns under one group scale

_GEMV = {"s8": "mg_gemv_s8_dsp", "s4": "mg_gemv_s4_dsp", "s4_groups": "tvm_gemv_s4_groups"}


class _Intrinsic:
    """A product of a tile of rows with a chunk of columns, into acc int32[4 * blocks].

    blocks: of four rows. cols: a multiple of eight. words: of the stream, per block.
    """

    def __init__(self, kernel: str, blocks: int, cols: int) -> None:
        self.kernel, self.blocks, self.cols = kernel, blocks, cols
        subgroups = -(-cols // _SUBGROUP)
        self.words = {"s8": cols, "s4": cols // 2, "s4_groups": cols // 2 + subgroups}[kernel]

    @property
    def name(self) -> str:
        return f"gemv_{self.kernel}_{self.blocks}x{self.cols}"

    def declare(self, acc: Any, x: Any, scale: Any, stream: Any, at: tuple[Any, Any]) -> None:
        """What a block of that name writes and reads. scale: two words, of which the second is the sum of x.

        at: where x and the stream begin.
        """
        col, word = at
        T.reads(x[col : col + self.cols], scale, stream[word : word + self.blocks * self.words])
        T.writes(acc[0 : _BLOCK * self.blocks])

    def describe(self, acc: Any, x: Any, stream: Any, at: tuple[Any, Any]) -> None:
        """acc = the products, digit by digit. Written as TVM simplifies it: half * 16, not 16 * half."""
        col, word = at
        with T.serial(_BLOCK * self.blocks) as row:
            T.buffer_store(acc, 0, [row])
        if self.kernel == "s8":
            with T.grid(self.blocks, self.cols // 8, 2, 4, 2) as (block, eight, pair, i, half):
                digits = _halfword(stream[word + block * self.words + eight * 8 + pair * 4 + i], half)
                value = _int32(x[col + eight * 8 + i * 2 + half])
                for row, digit in enumerate(_two_digits(digits)):
                    into = block * _BLOCK + pair * 2 + row
                    T.buffer_store(acc, acc[into] + digit * value, [into])
            return
        group = _SUBGROUP if self.kernel == "s4_groups" else self.cols
        whole = self.cols // group
        if whole:
            self._describe_s4(acc, x, stream, at, (group, whole))
        if self.cols % group:
            last = col + whole * group, word + whole * (group // 2 + 1)
            self._describe_s4(acc, x, stream, last, (self.cols % group, 1))

    def _describe_s4(self, acc: Any, x: Any, stream: Any, at: tuple[Any, Any], groups: tuple[int, int]) -> None:
        """Add the products of groups of columns: how many columns, and groups."""
        (col, word), (cols, count) = at, groups
        with T.grid(self.blocks, count, cols // 2, 2) as (block, group, pair, half):
            begin = word + block * self.words + group * (cols // 2 + 1)
            digits = _halfword(stream[begin + pair], half)
            value = _int32(x[col + group * cols + pair * 2 + half])
            for row in range(_BLOCK):
                digit = T.shift_right(digits, 4 * row)
                digit = digit if row == _BLOCK - 1 else T.bitwise_and(digit, 15) - 8
                if self.kernel == "s4_groups":
                    place = T.uint32(8 * SCALE_ROWS.index(row))
                    digit = digit * _int32(cast("int8", T.shift_right(stream[begin + cols // 2], place)))
                T.buffer_store(acc, acc[block * _BLOCK + row] + digit * value, [block * _BLOCK + row])

    def call(self, acc: Any, x: Any, scale: Any, stream: Any) -> None:
        """The same, by the kernel."""
        given = [acc.access_ptr("w"), x.access_ptr("r"), stream.access_ptr("r"), self.cols, self.blocks]
        if self.kernel != "s4_groups":
            given.append(scale.access_ptr("r"))
        T.evaluate(T.call_extern("int32", _GEMV[self.kernel], *given))

    def register(self) -> None:
        """Tell TVM what the intrinsic computes, and how."""
        TensorIntrin.register(self.name, self._function(True), self._function(False), override=True)

    def _function(self, described: bool) -> Any:
        words = self.blocks * self.words
        kinds = ((_BLOCK * self.blocks, "int32"), (self.cols, "int16"), (2, "int32"), (words, "uint32"))
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name(self.name)
            acc, x, scale, stream = (
                T.arg(name, T.Buffer((size,), dtype, offset_factor=1))
                for name, (size, dtype) in zip(("acc", "x", "scale", "stream"), kinds, strict=True)
            )
            with T.sblock("root"):
                self.declare(acc, x, scale[0:2], stream, (0, 0))
                if described:
                    self.describe(acc, x, stream, (0, 0))
                else:
                    self.call(acc, x, scale, stream)
        return builder.get()


def _halfword(word: Any, half: Any) -> Any:
    return _int32(cast("int16", T.shift_right(word, cast("uint32", half * 16))))


def _two_digits(halfword: Any) -> tuple[Any, Any]:
    """Lower and upper of 256 * upper + lower."""
    lower = _int32(cast("int8", halfword))
    return lower, T.shift_right(halfword - lower, 8)


class _Dsp:
    """A packed matrix times x: tile after tile of rows, and in it chunk after chunk of columns."""

    def __init__(self, function: Function, a: Arrays, described: bool) -> None:
        self._function, self._a, self._described = function, a, described
        width = _up(function["cols"], 8)
        chunk = function["chunk"] or width
        self._chunks = [(start, min(chunk, width - start)) for start in range(0, width, chunk)]
        int4 = function.kernel.startswith("linear4")
        self._kernel = "s4_groups" if function["group"] else "s4" if int4 else "s8"
        self._used: dict[str, _Intrinsic] = {}

    def write(self) -> None:
        rows = self._function["rows"]
        tile = _CHUNK_TILE if len(self._chunks) > 1 else _TILE
        with T.sblock("root"):
            room = min(tile, _up(rows, _BLOCK))
            self._acc = _local("acc", room)
            self._part = _local("part", room) if len(self._chunks) > 1 else self._acc
            self._scales = self._a["scale"]
            if len(self._chunks) > 1 and self._kernel == "s4":
                self._scales = _local("scales", 2 * len(self._chunks))
                self._write_scales()
            whole = rows // tile
            for start, tiles, count in ((0, whole, tile), (whole * tile, 1, rows % tile)):
                if tiles and count:
                    self._write_tiles(start, tiles, count)

    def _write_scales(self) -> None:
        """The scales that kernels read: of a chunk, the sum of x alone is used."""
        x, scales = self._a["x"], self._scales
        for at, (start, count) in enumerate(self._chunks):
            with T.sblock("scale"):
                T.buffer_store(scales, 0, [2 * at + 1])
                with T.serial(count) as i:
                    T.buffer_store(scales, scales[2 * at + 1] + _int32(x[start + i]), [2 * at + 1])

    def _write_tiles(self, start: int, tiles: int, count: int) -> None:
        """Tiles of `count` rows from row `start` on."""
        blocks = _up(count, _BLOCK) // _BLOCK
        pieces = [_Intrinsic(self._kernel, blocks, cols) for _, cols in self._chunks]
        words = sum(piece.words for piece in pieces)  # of a block of rows
        with T.serial(tiles) as i:
            begun = 0
            for at, (piece, (col, _)) in enumerate(zip(pieces, self._chunks, strict=True)):
                into = self._part if at else self._acc
                with T.sblock(piece.name):
                    row = start + T.axis.spatial(tiles, i) * count
                    place = col, T.floordiv(row, _BLOCK) * words + begun
                    piece.declare(into, self._a["x"], self._scale(at), self._a["codes"], place)
                    piece.describe(into, self._a["x"], self._a["codes"], place)
                if at:
                    with T.serial(_BLOCK * blocks) as j, T.sblock("sum"):
                        part = T.axis.spatial(_BLOCK * blocks, j)
                        T.buffer_store(self._acc, self._acc[part] + self._part[part], [part])
                self._used[piece.name] = piece
                begun += piece.words * blocks
            self._write_output(start, (tiles, i), count)

    def _scale(self, chunk: int) -> Any:
        at = 0 if self._scales is self._a["scale"] else 2 * chunk
        return self._scales[at : at + 2]

    def _write_output(self, start: int, tile: tuple[int, Any], count: int) -> None:
        a, rows = self._a, self._function["rows"]
        output = self._function.kernel.split("_", 1)[1]
        if self._described or (output == "s8" and rows % 2):
            with _by_four(count) as i, T.sblock("output"):
                first, row = T.axis.spatial(*tile) * count, T.axis.spatial(count, i)
                _write_output(self._function, a, self._acc[row], start + first + row)
            return
        y = a["y"] if output != "s8" else _local("pairs", count, dtype="int16")
        with T.sblock("output"):
            row = start + T.axis.spatial(*tile) * count
            at, residual = 0 if output == "s8" else row, a.get("residual", y)
            T.reads(
                self._acc[0:count], a["multiplier"][row : row + count], a["scale"][0:1], residual[at : at + count]
            )
            T.writes(y[at : at + count])
            places = [T.address_of(place) for place in (y[at], self._acc[0], a["multiplier"][row])]
            given = (*places, count, a["scale"][0], a["shift"], T.address_of(residual[at]))
            T.evaluate(T.call_extern("int32", f"mg_finish_{output}_dsp", *given))
        if output == "s8":  # it leaves two rows in every other halfword
            with _by_four(count // 2) as i, T.sblock("slot"):
                first, pair = T.axis.spatial(*tile) * count, T.axis.spatial(count // 2, i)
                both = let("both", _int32(y[2 * pair]))
                for upper in (0, 1):
                    code = cast("int8", T.shift_right(both, 8 * upper))
                    T.buffer_store(a["ring"], code, [a["slot"] * rows + start + first + 2 * pair + upper])

    def schedule(self, s: Any) -> None:
        """Put the intrinsics in place of what they compute."""
        for name, intrinsic in {} if self._described else self._used.items():
            intrinsic.register()
            for block in _blocks(s, name):
                s.tensorize(block, name)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


# ---------------------------------------------------------------- Helium

_RING_TILE = 64  # rows, as many as the packing and the kernel take at a time


def _mve(function: Function, a: Arrays) -> None:
    """The whole function is one call, or, into the ring, one for every tile of rows, of which int8 codes are made."""
    rows = function["rows"]
    with T.sblock("root"):
        if "ring" not in a:
            _mve_call(function, a, a["y"], 0, rows)
            return
        values = _local("values", min(rows, _RING_TILE), dtype="int16")
        for first in range(0, rows, _RING_TILE):
            count = min(_RING_TILE, rows - first)
            _mve_call(function, a, values, first, count)
            _write_slot(function, a, values, first, count)


def _write_slot(function: Function, a: Arrays, values: Any, first: int, count: int) -> None:
    """Saturate once more, to int8: `count` rows of the slot from `first` on."""
    with _by_four(count) as i, T.sblock("slot"):
        row = T.axis.spatial(count, i)
        code = saturate_s8(let("value", _int32(values[row])))
        T.buffer_store(a["ring"], cast("int8", code), [a["slot"] * function["rows"] + first + row])


def _mve_call(function: Function, a: Arrays, y: Any, first: int, count: int) -> None:
    """y = the rows from `first` on, as int16 or int32."""
    cols, group = function["cols"], function["group"]
    codes = first // 8 * _mve_block_bytes(function)
    places = [("residual", 0), ("x", 0), ("scale", 0), ("codes", codes), ("multiplier", first)]
    pointers = [T.address_of(a[name][at]) for name, at in places if name in a]
    sizes = (a["shift"], count, cols, group or function["chunk"] or cols, group)
    name = f"tvm_{function.kernel.replace('s8', 's16')}"
    with T.sblock("linear"):
        T.reads([a[name][at] for name, at in places if name in a])
        T.writes(y[0:count])
        T.evaluate(T.call_extern("int32", name, T.address_of(y[0]), *pointers, *sizes))


def _mve_block_bytes(function: Function) -> int:
    """Bytes of eight rows in mcugen/packing/mve.py."""
    vectors = _up(function["cols"], 16) // 16
    if function.kernel.startswith("linear_"):
        return 128 * vectors
    group = function["group"] or function["chunk"]
    return 64 * vectors + (8 * -(-function["cols"] // group) if group else 0)


# ---------------------------------------------------------------- the embedding table


def _embed(function: Function, a: Arrays) -> None:
    """y = round(code * multiplier / 2**shift), saturated.

    |code * multiplier| < 2**22, so that a shift of 23 or more leaves 0, and 2**22 can be added.
    """
    cols = function["cols"]
    code = {"": _code_row_major, "dsp": _code_dsp, "mve": _code_mve}[function.intrinsics]
    with T.sblock("root"):
        for start in range(0, cols, function["chunk"] or cols):
            count = min(function["chunk"] or cols, cols - start)
            with T.serial(count) as i, T.sblock("row"):
                col = T.axis.spatial(count, i)
                shift = minimum(a["shift"], 23)
                product = code(function, a["codes"], a["token"], start, col) * _int32(a["multiplier"][a["token"]])
                value = let("value", round_shift(product, shift))
                T.buffer_store(a["y"], cast("int16", saturate_s16(value)), [start + col])


def _code_row_major(function: Function, codes: Any, token: Any, start: int, col: Any) -> Any:
    return _int32(codes[token * function["cols"] + start + col])


def _code_dsp(function: Function, codes: Any, token: Any, start: int, col: Any) -> Any:
    """One digit of a halfword, 256 * upper + lower."""
    height, width = _up(function["rows"], _BLOCK), _up(function["cols"], 8)
    chunk = function["chunk"] or width
    tile = _CHUNK_TILE if function["chunk"] else height
    count = min(chunk, width - start)
    first = T.floordiv(token, tile) * tile
    block = T.floordiv(token - first, _BLOCK) * _BLOCK
    rows = T.min(height - first, tile)
    at = T.shift_right(first * width + rows * start + block * count, 2) + T.floordiv(col, 8) * 8
    at = at + T.bitwise_and(token, 2) * 2 + T.floordiv(T.floormod(col, 8), 2)
    digits = _two_digits(_halfword(codes[at], T.floormod(col, 2)))
    return T.Select(T.bitwise_and(token, 1) == 0, *digits)


def _code_mve(function: Function, codes: Any, token: Any, start: int, col: Any) -> Any:
    """Even rows of a block of eight lie before the odd ones; sixteen columns of each."""
    block = T.floordiv(token, 8) * _up(function["cols"], 16) * 8
    row = T.bitwise_and(token, 1) * 4 + T.floordiv(T.bitwise_and(token, 7), 2)
    return _int32(codes[block + T.floordiv(start + col, 16) * 128 + row * 16 + T.floormod(start + col, 16)])
