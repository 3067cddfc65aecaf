"""What every machine can do, and how it reports a firmware that misbehaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mcugen.errors import McugenError

FaultKind = Literal[
    "flash-write",
    "unmapped",
    "misaligned",
    "stack-overflow",
    "execute-data",
    "exception",
    "endless-loop",
    "register",
    "crash",
    "sanitizer",
]

HINTS: Mapping[FaultKind, str] = {
    "flash-write": "flash is read-only here: look for a const that was cast away or an index that left its array",
    "unmapped": "nothing answers at that address: look for a wild pointer or an index that left its array",
    "misaligned": "align the object to the size of the access, or access it in smaller pieces",
    "stack-overflow": "raise the board's stack_bytes, or look for a recursion or a large local array",
    "execute-data": "look for a function pointer or a return address that was overwritten",
    "exception": "disassemble the function at that offset: the core cannot go on there",
    "endless-loop": "look for a wait without a bound; if the work is really that long, raise the limit",
    "register": "the model knows only the registers that the port needs: check the address in the manual, "
    "or add the register to the model",
    "crash": "build the library with the address and undefined-behaviour sanitizers and run again",
    "sanitizer": "fix the line that the sanitizer names: it may work here and fail on the board",
}


class FirmwareFault(McugenError):
    """The firmware did something that the board would not survive, or that C leaves undefined.

    kind: see FaultKind. function: symbol, with the offset where it is known, e.g. "mg_rope_s8+0x1c".
    address: of the offending access, target or instruction; None where the host does not say.
    """

    exit_code = 6

    def __init__(self, kind: FaultKind, what: str, *, function: str, address: int | None, where: str) -> None:
        super().__init__(what, where=where, hint=HINTS[kind])
        self.kind = kind
        self.function = function
        self.address = address


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes to look at after an op.

    They lie at address + stride * (slot // unit), where the slot is position % modulo and position the token's place
    in the sequence: a plain buffer keeps the defaults; a KV ring of n tokens has n as the modulo and, as the stride,
    the size of a `unit` of slots that lie together. The first `kept` tokens keep their slots, and the others take
    turns in those behind them.
    """

    address: int
    size: int  # bytes
    stride: int = 0  # bytes
    modulo: int = 1  # tokens
    unit: int = 1  # tokens
    kept: int = 0  # tokens

    def at(self, position: int) -> int:
        """Return the address at a position of the sequence."""
        slot = self.kept + (position - self.kept) % (self.modulo - self.kept)
        return self.address + self.stride * (min(slot, position) // self.unit)


Regions = Mapping[int, Sequence[Region]]  # op index -> what to read when it is done


@dataclass(frozen=True, slots=True)
class Profile:
    """Exact counts since the last reset of the profile.

    instructions: function -> executed instructions; those that an IT block skips count, as on the core.
    loads, stores: memory accesses of 1, 2 or 4 bytes (a transfer of n registers counts n).
    stack_bytes: from the top of the stack to the lowest address written.
    The last three are None where accesses are not watched, or the emulator cannot tell.
    """

    instructions: Mapping[str, int]
    total: int
    loads: int | None
    stores: int | None
    stack_bytes: int | None


class Machine(Protocol):
    """A firmware that can be called function by function and looked into."""

    def boot(self) -> None:
        """Start from reset, up to main(): .data and .bss are initialised. Also the way back after a fault."""

    def call(self, symbol: str, *args: int) -> int:
        """Call a C function with integers or addresses; return its result as uint32."""

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the firmware's memory."""

    def write(self, address: int, data: bytes) -> None:
        """Overwrite bytes of the firmware's memory."""

    def address(self, symbol: str) -> int:
        """Return the address of a function or object, static ones included."""

    def on_op(self, callback: Callable[[int], None] | None) -> None:
        """Call `callback(op)` whenever the firmware reaches mg_op_done(op); None stops that."""

    def trace(self, symbol: str, tokens: Sequence[int], regions: Regions, start: int = 0) -> list[bytes]:
        """Call symbol(token) for each token; return what the ops left behind.

        start: position in the sequence of the first token. The i-th result joins, in the order in which the
        ops finished during call i, the bytes of each op's regions at position start + i. The callback of on_op
        rests meanwhile.
        """

    def close(self) -> None:
        """Free what the machine holds."""


class Emulator(Machine, Protocol):
    """A Machine that runs the very ELF that is flashed: it counts, and has the board's console.

    title: for reports, e.g. "nucleo-f446re in unicorn".
    """

    title: str

    def reset_profile(self) -> None:
        """Begin to count anew."""

    def profile(self) -> Profile:
        """Return exact counts since boot() began, or since the last reset_profile()."""

    def instructions(self) -> int:
        """Return profile().total alone: cheap, so that it may be asked after every op."""

    def executions(self) -> Mapping[int, int]:
        """Return, since the same moment, how often the instruction at each address was executed."""

    def console(self, typed: bytes) -> Iterator[bytes]:
        """Run from reset through main() and yield the bytes that the console sends, as they come.

        typed: what the user types, all available from the start. Ends when the firmware waits for more,
        or returns from main().
        """
