"""A Cortex-M in QEMU, driven function by function: the Machine of cores that unicorn does not have.

It runs the very ELF that is flashed, and counts exactly. QEMU lets pass what unicorn_machine.py refuses, writes to
flash and misaligned accesses among them; what the core itself refuses is a fault here as well, and so is a run that
takes too long. After a fault, boot() starts afresh.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from mcugen.console import END_OF_TRANSMISSION
from mcugen.emulate.elf import AddressBook, parse_elf
from mcugen.emulate.machine import FaultKind, FirmwareFault, Profile, Regions
from mcugen.emulate.qemu import find_machine, run_console
from mcugen.emulate.qemu_core import LR, PC, SP, QemuCore, QemuEnded
from mcugen.errors import InternalError
from mcugen.ir import Firmware

TIMEOUT_S = 60.0  # of one boot() or call(); a PC executes some 10^10 instructions in it
CONSOLE_TIMEOUT_S = 300.0
_RAM_AT_RESET = 0xA5  # not zero, so that code which forgets to initialise is found
_ARGUMENTS = 4  # in registers; the rest lies on the stack (AAPCS, 6.4)
_FAULT_HANDLERS = "mg_fault_"  # firmware/ports/cortex_m/startup.c

# Armv7-M Architecture Reference Manual, B3.2: ICSR, CFSR, BFAR.
_STATUS = ((0xE000ED04, 4), (0xE000ED28, 4), (0xE000ED38, 4))
_STACKED_LR, _STACKED_PC = 5, 6  # words from the stack pointer, in what an exception pushes (B1.5.6)
_STACKING_ERRORS = 1 << 4 | 1 << 12 | 1 << 20  # MSTKERR, BFSR.STKERR, STKOF (Armv8-M)
_ADDRESS_VALID = 1 << 15  # BFSR.BFARVALID
_BKPT = 0xBE  # the upper byte of a breakpoint instruction, which QEMU makes a HardFault without a reason
_REASONS: Sequence[tuple[int, FaultKind, str]] = (  # a bit of CFSR, what it means
    (1 << 0, "execute-data", "executes what is not code"),  # IACCVIOL
    (1 << 8, "execute-data", "executes where no memory is"),  # IBUSERR
    (1 << 9, "unmapped", "accesses {address}, where nothing answers"),  # PRECISERR
    (1 << 10, "unmapped", "accesses an address where nothing answers"),  # IMPRECISERR
    (1 << 16, "exception", "has an undefined instruction"),  # UNDEFINSTR
    (1 << 17, "execute-data", "jumps to an address without the Thumb bit"),  # INVSTATE
    (1 << 18, "exception", "returns from an exception that is not active"),  # INVPC
    (1 << 19, "exception", "uses the FPU or the vector unit, which is off"),  # NOCP
    (1 << 24, "misaligned", "makes a misaligned access"),  # UNALIGNED
)
_EXCEPTIONS = {2: "NMI", 3: "HardFault", 4: "MemManage", 5: "BusFault", 6: "UsageFault", 11: "svc"}


class QemuCortexM:
    """The Machine of a board that QEMU has. Raises ToolError if QEMU, a machine of it or a C compiler lacks.

    timeout: seconds that boot() and each call() may take.
    """

    def __init__(self, firmware: Firmware, timeout: float = TIMEOUT_S) -> None:
        self._board = firmware.board
        self._machine = find_machine(firmware.board)
        self._firmware = firmware
        self._timeout = timeout
        self.title = f"{firmware.board.name} in QEMU"
        self._elf = parse_elf(firmware.image)
        self._names = AddressBook(self._elf)
        self._handlers = [s.address for s in self._elf.symbols if s.name.startswith(_FAULT_HANDLERS)]
        self._stack_top = self._elf.symbol("_estack").address
        self._stack_bottom = self._elf.symbol("_sstack").address
        self._op_done = self.address("mg_op_done") if self._elf.has("mg_op_done") else None
        self._observer: Callable[[int], None] | None = None
        self._observing = False  # there is a breakpoint at mg_op_done
        self._core: QemuCore | None = None

    # ------------------------------------------------------------ Machine

    def boot(self) -> None:
        self.close()
        self._core = QemuCore(self._machine, self._firmware.image, self._board.flash, where=self.title)
        self._observing = False
        main = self.address("main")
        with self._running("boot") as core:
            core.write(self._board.ram.origin, bytes([_RAM_AT_RESET]) * self._board.ram.size)
            core.add_breakpoints([*self._handlers, main])
            self._run(core, main)
            core.remove_breakpoints([main])
            core.add_breakpoints([self._board.flash.origin])

    def call(self, symbol: str, *args: int) -> int:
        words = [value & 0xFFFFFFFF for value in args]
        stacked = b"".join(word.to_bytes(4, "little") for word in words[_ARGUMENTS:])
        pointer = (self._stack_top - len(stacked)) & ~7  # AAPCS, 6.2.1.2: 8-byte aligned at a call
        sentinel = self._board.flash.origin  # the vector table: never executed, so a call can end there
        registers = {**dict(enumerate(words[:_ARGUMENTS])), SP: pointer, LR: sentinel | 1, PC: self.address(symbol)}
        with self._running(f"call of {symbol}") as core:
            self._watch_ops(core)
            core.write(pointer, stacked)
            core.set_registers(registers)
            return self._run(core, sentinel)

    def read(self, address: int, size: int) -> bytes:
        with self._running("read") as core:
            return core.read((address, size))[0]

    def write(self, address: int, data: bytes) -> None:
        with self._running("write") as core:
            core.write(address, data)

    def address(self, symbol: str) -> int:
        return self._elf.symbol(symbol).address

    def on_op(self, callback: Callable[[int], None] | None) -> None:
        self._observer = callback

    def trace(self, symbol: str, tokens: Sequence[int], regions: Regions, start: int = 0) -> list[bytes]:
        results = []
        before = self._observer
        try:
            for position, token in enumerate(tokens, start):
                found: list[bytes] = []
                self._observer = self._reader(regions, position, found)
                self.call(symbol, token)
                results.append(b"".join(found))
        finally:
            self._observer = before
        return results

    def close(self) -> None:
        if self._core is not None:
            self._core.close()
            self._core = None

    def _reader(self, regions: Regions, position: int, found: list[bytes]) -> Callable[[int], None]:
        """An observer that appends the bytes of an op's regions to `found`."""

        def read(op: int) -> None:
            pieces = [(region.at(position), region.size) for region in regions.get(op, ())]
            if pieces:
                with self._running("trace") as core:
                    found.extend(core.read(*pieces))

        return read

    # ------------------------------------------------------------ counts

    def reset_profile(self) -> None:
        """Begin to count anew."""
        with self._running("reset_profile") as core:
            core.counts.reset()

    def profile(self) -> Profile:
        """Return exact counts since boot() began, or since the last reset_profile()."""
        with self._running("profile") as core:
            counts = core.counts
        found: Counter[str] = Counter()
        for address, executions in counts.by_address().items():
            owner = self._names.owner(address)
            found[owner.name if owner else f"{address:#010x}"] += executions
        if elsewhere := counts.elsewhere():
            found["outside the flash"] = elsewhere
        return Profile(dict(found.most_common()), counts.total(), loads=None, stores=None, stack_bytes=None)

    def instructions(self) -> int:
        """Return profile().total alone."""
        with self._running("instructions") as core:
            return core.counts.total()

    def executions(self) -> Mapping[int, int]:
        """Return, since the same moment, how often the instruction at each address was executed."""
        with self._running("executions") as core:
            return core.counts.by_address()

    # ------------------------------------------------------------ console

    def console(self, typed: bytes) -> Iterator[bytes]:
        """Run from reset through main() and yield what the console sends; ends as machine.Emulator says."""
        yield run_console(self._firmware, typed, CONSOLE_TIMEOUT_S, END_OF_TRANSMISSION)

    # ------------------------------------------------------------ running

    @contextlib.contextmanager
    def _running(self, what: str) -> Iterator[QemuCore]:
        """The core; should QEMU end meanwhile, that is a fault."""
        if self._core is None:
            raise InternalError(f"{what} before boot, or after a fault", where=self.title)
        try:
            yield self._core
        except QemuEnded as error:
            raise self._fault("crash", f"ends QEMU: {error}", None, None) from error

    def _watch_ops(self, core: QemuCore) -> None:
        """Keep a breakpoint at mg_op_done as long as somebody looks."""
        if self._op_done is None or self._observing == (self._observer is not None):
            return
        self._observing = not self._observing
        (core.add_breakpoints if self._observing else core.remove_breakpoints)([self._op_done])

    def _run(self, core: QemuCore, end: int) -> int:
        """Run until `end` is reached, past ops and their observer; return r0. Anything else is a fault."""
        while True:
            stopped = core.run(self._timeout)
            registers = core.registers()
            at = registers[PC]
            if not stopped:
                raise self._fault("endless-loop", f"is still running after {self._timeout:g} s", at, at)
            if at == end:
                return registers[0]
            if at != self._op_done:
                raise self._exception(core, registers)
            if self._observer is not None:
                self._observer(registers[0])
            core.step()

    # ------------------------------------------------------------ faults

    def _exception(self, core: QemuCore, registers: list[int]) -> FirmwareFault:
        """Why the core is in one of the fault handlers."""
        status = core.read(*_STATUS)
        icsr, cfsr, bfar = (int.from_bytes(word, "little") for word in status)
        if cfsr & _STACKING_ERRORS:
            size = self._stack_top - self._stack_bottom
            caller = self._innermost_caller(core)
            return self._fault("stack-overflow", f"overflows its stack of {size:,} B", caller, registers[SP])
        frame = core.read((registers[SP], 4 * (_STACKED_PC + 1)))[0]
        link, at = (int.from_bytes(frame[4 * i : 4 * i + 4], "little") & ~1 for i in (_STACKED_LR, _STACKED_PC))
        if self._names.owner(at) is None:  # it has jumped away: name the code that it left
            return self._fault("execute-data", f"jumps to {at:#010x}, which is not code", link, at)
        for bit, kind, what in _REASONS:
            if cfsr & bit:
                address = bfar if cfsr & _ADDRESS_VALID else at
                return self._fault(kind, what.format(address=f"{address:#010x}"), at, address)
        number = icsr & 0x1FF
        name = "bkpt" if core.read((at + 1, 1))[0][0] == _BKPT else _EXCEPTIONS.get(number, number)
        return self._fault("exception", f"raises an exception: {name}", at, at)

    def _innermost_caller(self, core: QemuCore) -> int | None:
        """Where the lowest return address in the stack points to: an overflow destroys what the core knew itself."""
        stack = core.read((self._stack_bottom, self._stack_top - self._stack_bottom))[0]
        words = (int.from_bytes(stack[at : at + 4], "little") for at in range(0, len(stack), 4))
        owners = ((word - 1, self._names.owner(word - 1)) for word in words if word & 1)
        return next((address for address, owner in owners if owner is not None and owner.is_function), None)

    def _fault(self, kind: FaultKind, what: str, pc: int | None, address: int | None) -> FirmwareFault:
        """End QEMU and return the error. pc: of the culprit; None where the core has lost it."""
        self.close()
        function = "the firmware" if pc is None else self._names.name(pc)
        where = self.title if pc is None else f"{self.title}, pc {pc:#010x}"
        return FirmwareFault(kind, f"{function} {what}", function=function, address=address, where=where)
