"""Call the kernels of the families v6m and v7m on their emulated cores: arrays in, values out, layouts in between.

The layouts are written here one element at a time, from the words of firmware/kernels/v6m/kernels_v6m.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import on_core

from mcugen.ir import Linear
from mcugen.packing import Packed, row_digits

TOOLCHAINS = ("zig", "gcc")
CORES = {"v6m": "cortex-m0plus", "v7m": "cortex-m3"}
SHARED = ("kernels/row_digits.c", "kernels/tables.c", "kernels/rmsnorm.c")
FILLING = 0x5A  # of padding and of slots that hold nothing yet


@dataclass
class Family:
    """One family's kernels on its core, built by one compiler."""

    name: str
    toolchain: str

    def __post_init__(self) -> None:
        folder = on_core.FIRMWARE / "kernels" / self.name
        sources = sorted(path.relative_to(on_core.FIRMWARE).as_posix() for path in folder.glob("*.[cS]"))
        self.core = on_core.load(CORES[self.name], self.toolchain, (*sources, *SHARED))
        self.biased = self.name == "v6m"

    @property
    def instructions(self) -> int:
        return self.core.instructions

    def call(self, kernel: str, *arguments: int, portable: bool = False) -> None:
        self.core.call(f"mg_{kernel}" if portable else f"mg_{kernel}_{self.name}", *arguments)

    # ------------------------------------------------------------ layouts

    def coded(self, x: np.ndarray) -> np.ndarray:
        """Codes int8[tokens, n] as they lie in memory: padded to 8, on v6m 128 more than their value."""
        padded = np.zeros((len(x), -(-x.shape[1] // 8) * 8), np.int16)
        padded[:, : x.shape[1]] = x
        return (padded + 128).astype(np.uint8) if self.biased else padded.astype(np.int8)

    def pack(self, w: Linear) -> Packed:
        if w.bits == 4:
            pack_s4 = row_digits.pack_s4_v6m if self.biased else row_digits.pack_s4_v7m
            return pack_s4(w.codes, w.group_scale, w.group)
        return (row_digits.pack_s8_v6m if self.biased else row_digits.pack_s8_v7m)(w.codes)

    def place_linear(self, w: Linear, packed: Packed | None = None) -> int:
        packed = packed or self.pack(w)
        codes, multiplier = self.core.place(packed.stream), self.core.place(w.multiplier)
        rows, cols = w.codes.shape
        return self.core.struct(codes, multiplier, rows, cols, w.shift, packed.chunk, w.group)

    # ------------------------------------------------------------ kernels

    def linear(
        self,
        kernel: str,
        x: np.ndarray,
        scale: np.ndarray,
        w: Linear,
        residual: np.ndarray | None = None,
        packed: Packed | None = None,
        in_place: bool = False,
    ) -> np.ndarray:
        """A linear kernel on codes x int8[tokens, cols] with scale int32[tokens, 2]; those that write a ring write
        its slots from 3 on, and leave the others."""
        core = self.core
        core.reset()
        tokens, rows = len(x), len(w.codes)
        place_w = self.place_linear(w, packed)
        place_x, place_scale = core.place(self.coded(x)), core.place(scale.astype(np.int32))
        if kernel.endswith("_s8"):
            before = np.full((3 + tokens + 1, -(-rows // 4) * 4), FILLING, np.uint8)
            ring = core.place(before)
            self.call(kernel, ring, 3, place_x, place_scale, tokens, place_w)
            after = core.read(ring, "uint8", *before.shape)
            assert (after[:3] == FILLING).all()
            assert (after[-1] == FILLING).all()
            return value_codes(after[3:-1])[:, :rows]
        dtype = "int32" if kernel.endswith("_s32") else "int16"
        if residual is None:
            y = core.place(np.full((tokens, rows), FILLING, dtype))
            self.call(kernel, y, place_x, place_scale, tokens, place_w)
        else:
            place_residual = core.place(residual.astype(np.int16))
            y = place_residual if in_place else core.place(np.full((tokens, rows), FILLING, dtype))
            self.call(kernel, y, place_residual, place_x, place_scale, tokens, place_w)
        return core.read(y, dtype, tokens, rows)

    def embed(self, token: int, table: Linear, packed: Packed | None = None) -> np.ndarray:
        self.core.reset()
        cols = table.codes.shape[1]
        y = self.core.place(np.full(cols, FILLING, np.int16))
        self.call("embed_s16", y, token, self.place_linear(table, packed))
        return self.core.read(y, "int16", cols)

    def block(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes int8[n padded to 8], scale int32[2]."""
        self.core.reset()
        padded = -(-len(x) // 8) * 8
        codes = self.core.place(np.full(padded, FILLING, np.uint8))
        scale = self.core.struct(0, 0)
        self.call("block_s8", codes, scale, self.core.place(x), len(x))
        stored = self.core.read(codes, "uint8" if self.biased else "int8", padded).astype(np.int16)
        return stored - 128 if self.biased else stored, self.core.read(scale, "int32", 2)

    def rmsnorm(self, x: np.ndarray, gain: np.ndarray, gain_frac: int, eps: int) -> np.ndarray:
        self.core.reset()
        norm = self.core.struct(self.core.place(gain), len(x), gain_frac, 0, eps & 0xFFFFFFFF, eps >> 32)
        y = self.core.place(np.full(len(x), FILLING, np.int16))
        self.call("rmsnorm_s16", y, self.core.place(x), norm)
        return self.core.read(y, "int16", len(x))

    def swiglu(self, gate: np.ndarray, up: np.ndarray, frac: int, shift: int, in_place: bool) -> np.ndarray:
        self.core.reset()
        place_gate, place_up = self.core.place(gate), self.core.place(up)
        y = place_gate if in_place else self.core.place(np.full(len(gate), FILLING, np.int16))
        self.call("swiglu_s16", y, place_gate, place_up, len(gate), frac, shift)
        return self.core.read(y, "int16", len(gate))

    def place_rope(self, step: np.ndarray, heads: int, zero: np.ndarray, shift: int) -> int:
        core = self.core
        return core.struct(core.place(step), core.place(zero.astype(np.int32)), heads, 2 * len(step), shift)

    def rope_s8(
        self,
        keys: np.ndarray,
        slot: int,
        x: np.ndarray,
        position: int,
        step: np.ndarray,
        zero: np.ndarray,
        shift: int,
    ) -> np.ndarray:
        """The ring int8[slots, size] with x's keys in `slot`."""
        self.core.reset()
        ring = self.core.place(key_ring(keys))
        rope = self.place_rope(step, keys.shape[1] // (2 * len(step)), zero, shift)
        self.call("rope_s8", ring, slot, self.core.place(x), position, rope)
        return self._keys(ring, keys.shape)

    def rebase(self, keys: np.ndarray, delta: int, step: np.ndarray, zero: np.ndarray, shift: int) -> np.ndarray:
        self.core.reset()
        ring = self.core.place(key_ring(keys))
        rope = self.place_rope(step, keys.shape[1] // (2 * len(step)), zero, shift)
        self.call("rebase_s8", ring, ring, len(keys), delta, rope)
        return self._keys(ring, keys.shape)

    def _keys(self, ring: int, shape: tuple[int, ...]) -> np.ndarray:
        units = -(-shape[0] // 4)
        stored = self.core.read(ring, "uint8", units, shape[1], 4)
        assert (stored.transpose(0, 2, 1).reshape(-1, shape[1])[shape[0] :] == FILLING).all()
        return key_codes(stored, shape[0])

    def attention(
        self, q: np.ndarray, keys: np.ndarray, values: np.ndarray, length: int, n_heads: int, shift: int, drop: int
    ) -> np.ndarray:
        """q int16[dim]; keys, values int8[slots, kv_dim], of which the first `length` count."""
        core = self.core
        core.reset()
        head_dim = len(q) // n_heads
        shape = core.struct(n_heads, keys.shape[1] // head_dim, head_dim, shift, drop)
        rows = 1 if self.biased else 2
        scores = core.place(np.full((rows, -(-length // 4) * 4), FILLING, np.int16))
        out = core.place(np.full(len(q), FILLING, np.int16))
        rings = core.place(key_ring(keys)), core.place(value_ring(values))
        self.call("attention_s16", out, core.place(q), *rings, scores, length, shape)
        return core.read(out, "int16", len(q))


def key_ring(keys: np.ndarray) -> np.ndarray:
    """Codes int8[slots, channels] as words of one channel in four slots, all but the last byte with the top bit
    turned over: uint8[units, channels, 4]."""
    ring = np.full((-(-len(keys) // 4), keys.shape[1], 4), FILLING, np.uint8)
    for slot, channel in np.ndindex(keys.shape):
        code = int(keys[slot, channel])
        ring[slot // 4, channel, slot % 4] = code % 256 if slot % 4 == 3 else code + 128
    return ring


def key_codes(ring: np.ndarray, slots: int) -> np.ndarray:
    """What key_ring was made from."""
    codes = np.zeros((slots, ring.shape[1]), np.int8)
    for slot, channel in np.ndindex(codes.shape):
        byte = int(ring[slot // 4, channel, slot % 4])
        codes[slot, channel] = (byte ^ 128) - 128 if slot % 4 == 3 else byte - 128
    return codes


def value_ring(values: np.ndarray) -> np.ndarray:
    """Codes int8[slots, channels], all but every fourth byte with the top bit turned over, channels padded to four."""
    ring = np.full((len(values), -(-values.shape[1] // 4) * 4), FILLING, np.uint8)
    for slot, channel in np.ndindex(values.shape):
        code = int(values[slot, channel])
        ring[slot, channel] = code % 256 if channel % 4 == 3 else code + 128
    return ring


def value_codes(ring: np.ndarray) -> np.ndarray:
    """Codes int8[slots, channels] of a ring of values: all but every fourth byte with the top bit turned over."""
    codes = np.zeros(ring.shape, np.int8)
    for slot, channel in np.ndindex(ring.shape):
        byte = int(ring[slot, channel])
        codes[slot, channel] = byte - 128 if channel % 4 != 3 else (byte ^ 128) - 128
    return codes


def each_family(names: tuple[str, ...]) -> Callable[[], list[Family]]:
    return lambda: [Family(name, toolchain) for name in names for toolchain in TOOLCHAINS]
