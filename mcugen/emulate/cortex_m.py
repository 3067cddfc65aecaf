"""A Cortex-M in unicorn that runs the very ELF that is flashed, counts exactly, and forgives nothing.

Flash can be read and executed, RAM read and written; nothing else is mapped but the registers that the port
uses. Every block passes through profile_hook.c, which counts and bounds the run, and every memory access that is
watched, which must be aligned. After a fault the core's state is not to be trusted: boot() starts afresh.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

try:
    import unicorn
    from unicorn import arm_const as arm
    from unicorn.unicorn_py3.unicorn import uclib
except ImportError:  # an optional dependency; CortexM says what to install
    unicorn = None

from mcugen.emulate.elf import AddressBook, parse_elf
from mcugen.emulate.machine import FaultKind, FirmwareFault, Profile, Regions
from mcugen.emulate.profile_hook import (
    STOP_LIMIT,
    STOP_MISALIGNED,
    STOP_NONE,
    STOP_PAUSED,
    STOP_TABLE,
    ProfileState,
    load_profile_hook,
)
from mcugen.emulate.stm32f4 import PAGE, PAGES, BadRegisterAccess, Stm32f4
from mcugen.errors import InternalError, ToolError
from mcugen.ir import Firmware, MemoryRegion

INSTRUCTIONS = 1_000_000_000  # default limit of one run; several seconds on a PC
_CPU_MODELS = {
    "cortex-m0plus": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m3": "UC_CPU_ARM_CORTEX_M3",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
    "cortex-m33": "UC_CPU_ARM_CORTEX_M33",
}
_RAM_AT_RESET = 0xA5  # not zero, so that code which forgets to initialise is found
_UNANSWERED_POLLS = 64  # in a row, with no input left: the firmware waits for its user
_NEAR_STACK = 512  # bytes below the stack pointer that a push or a local array may reach first
# QEMU's exception numbers, target/arm/cpu.h
_EXCEPTIONS = {1: "undefined instruction", 2: "svc", 3: "prefetch abort", 4: "data abort", 7: "bkpt"}


class CortexM:
    """The Machine of an STM32F4 board. Raises ToolError if unicorn, a C compiler or a model of the board lacks.

    instructions: limit of each boot(), each call() and, at the console, of the work between two bytes.
    watch_accesses: refuse misaligned accesses, count loads and stores, measure the stack. An access that is
        watched costs a tenth of a microsecond; without, a long run is ten times faster and as exact.
    """

    def __init__(self, firmware: Firmware, instructions: int = INSTRUCTIONS, *, watch_accesses: bool = True) -> None:
        board = firmware.board
        if unicorn is None:
            raise ToolError(
                "unicorn is not installed",
                where=f"emulating {board.name}",
                hint="pip install 'mcugen[emulate]'",
            )
        if board.port != "stm32f4" or board.core not in _CPU_MODELS:
            raise ToolError(
                f"there is no model of port {board.port} on {board.core}",
                where=f"emulating {board.name}",
                hint="choose a board with port stm32f4, or the host",
            )
        self._board = board
        self._where = f"{board.name} in unicorn"
        self._elf = parse_elf(firmware.image)
        self._names = AddressBook(self._elf)
        self._limit = instructions
        self._watched = watch_accesses
        self._hook = load_profile_hook()
        self._state = ProfileState()
        self._flash = _Memory(board.flash)
        self._ram = _Memory(board.ram)
        self._observer: Callable[[int], None] | None = None
        self._at_console = False
        self._fault: FirmwareFault | None = None
        self._sentinel = board.flash.origin  # the vector table: never executed, so a run can end there
        self._stack_top = self._elf.symbol("_estack").address
        self._stack_bottom = self._elf.symbol("_sstack").address
        self._uc: Any = None

    # ------------------------------------------------------------ Machine

    def boot(self) -> None:
        self._reset()
        self._run(self._reset_vector(), self.address("main"))

    def call(self, symbol: str, *args: int) -> int:
        if self._uc is None:
            raise InternalError(f"call of {symbol} before boot, or after a fault", where=self._where)
        self._at_console = False
        registers = (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3)
        for register, value in zip(registers, args, strict=False):
            self._uc.reg_write(register, value & 0xFFFFFFFF)
        stacked = b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in args[4:])
        pointer = (self._stack_top - len(stacked)) & ~7  # AAPCS, 6.2.1.2: 8-byte aligned at a call
        self.write(pointer, stacked)
        self._uc.reg_write(arm.UC_ARM_REG_SP, pointer)
        self._uc.reg_write(arm.UC_ARM_REG_LR, self._sentinel | 1)
        self._run(self.address(symbol), self._sentinel)
        return int(self._uc.reg_read(arm.UC_ARM_REG_R0))

    def read(self, address: int, size: int) -> bytes:
        return self._memory(address, size).read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self._memory(address, len(data)).write(address, data)

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
                self._observer = _reader(self, regions, position, found)
                self.call(symbol, token)
                results.append(b"".join(found))
        finally:
            self._observer = before
        return results

    def close(self) -> None:
        self._uc = None

    # ------------------------------------------------------------ counts

    def reset_profile(self) -> None:
        """Begin to count anew."""
        self._hook.mg_reset_profile(ctypes.byref(self._state))

    def profile(self) -> Profile:
        """Return exact counts since boot() began, or since the last reset_profile()."""
        counts: Counter[str] = Counter()
        for block in self._state.block:
            if block.executions:
                owner = self._names.owner(block.address)
                name = owner.name if owner else f"{block.address:#010x}"
                counts[name] += block.executions * block.instructions
        state = self._state
        return Profile(
            instructions=dict(counts.most_common()),
            total=state.instructions,
            loads=state.loads if self._watched else None,
            stores=state.stores if self._watched else None,
            stack_bytes=state.stack_high - state.stack_lowest if self._watched else None,
        )

    # ------------------------------------------------------------ console

    def console(self, typed: bytes) -> Iterator[bytes]:
        """Run from reset through main() and yield the bytes that USART2 sends, as they come.

        typed: what the user types, all available from the start. Ends when the firmware waits for more,
        or returns from main().
        """
        self._reset()
        self._at_console = True
        self._registers.input.extend(typed)
        program_counter = self.address("main")
        self._run(self._reset_vector(), program_counter)
        end = self._uc.reg_read(arm.UC_ARM_REG_LR) & ~1  # where main() returns to
        while True:
            self._run(program_counter, end)
            program_counter = self._uc.reg_read(arm.UC_ARM_REG_PC)
            if self._registers.output:
                yield bytes(self._registers.output)
                self._registers.output.clear()
            elif self._state.stop_reason != STOP_PAUSED or self._starved():
                return

    def _starved(self) -> bool:
        return not self._registers.input and self._registers.unanswered_polls >= _UNANSWERED_POLLS

    # ------------------------------------------------------------ reset

    def _reset(self) -> None:
        """Make a core in its reset state. A new engine: no flag, block or IT state survives a fault."""
        self._fault = None
        self._at_console = False
        self._flash.fill(0xFF)
        self._ram.fill(_RAM_AT_RESET)
        for segment in self._elf.segments:
            if not self._flash.holds(segment.address, len(segment.data)):
                raise InternalError(
                    f"the ELF programs {len(segment.data):,} B at {segment.address:#010x}, outside the flash",
                    where=self._where,
                )
            self._flash.write(segment.address, segment.data)
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._uc.ctl_set_cpu_model(getattr(arm, _CPU_MODELS[self._board.core]))
        self._flash.map_into(self._uc, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self._ram.map_into(self._uc, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self._registers = Stm32f4(lambda: int(self._state.instructions))
        for page in PAGES:
            self._uc.mmio_map(page, PAGE, self._on_register_read, page, self._on_register_write, page)
        self._uc.reg_write(arm.UC_ARM_REG_SP, int.from_bytes(self.read(self._board.flash.origin, 4), "little"))
        self._uc.reg_write(arm.UC_ARM_REG_LR, 0xFFFFFFFF)
        self._add_hooks()

    def _reset_vector(self) -> int:
        return int.from_bytes(self.read(self._board.flash.origin + 4, 4), "little") & ~1

    def _add_hooks(self) -> None:
        state = self._state
        ctypes.memset(ctypes.byref(state), 0, ctypes.sizeof(state))
        state.code = self._flash.pointer()
        state.code_origin, state.code_size = self._board.flash.origin, self._board.flash.size
        state.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        state.read_register = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        state.write_register = ctypes.cast(uclib.uc_reg_write, ctypes.c_void_p).value
        state.pc_register, state.status_register = arm.UC_ARM_REG_PC, arm.UC_ARM_REG_XPSR
        state.stack_low, state.stack_high = self._stack_bottom, self._stack_top
        state.stack_lowest = self._stack_top
        self._add_native_hook(unicorn.UC_HOOK_BLOCK, self._hook.mg_on_block)
        if self._watched:
            kinds = unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE
            self._add_native_hook(kinds, self._hook.mg_on_access)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid_access)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        if self._elf.has("mg_op_done"):  # now: a hook has no effect on blocks that are translated already
            at = self.address("mg_op_done")
            self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_op_done, begin=at, end=at)

    def _add_native_hook(self, kind: int, function: Any) -> None:
        """Register a C function through unicorn's C API; begin > end means every address."""
        handle = ctypes.c_size_t()
        callback = ctypes.cast(function, ctypes.c_void_p)
        user = ctypes.byref(self._state)
        begin, end = ctypes.c_uint64(1), ctypes.c_uint64(0)
        status = uclib.uc_hook_add(
            self._uc._uch, ctypes.byref(handle), ctypes.c_int(kind), callback, user, begin, end
        )
        if status != unicorn.UC_ERR_OK:
            raise InternalError(f"unicorn refuses a hook (error {status})", where=self._where)

    # ------------------------------------------------------------ running

    def _run(self, address: int, end: int) -> None:
        """Run until `end` is reached or a pause was asked for; anything else is a fault."""
        state = self._state
        state.stop_reason, state.pause = STOP_NONE, 0
        state.limit = state.instructions + self._limit
        try:
            self._uc.emu_start(address | 1, end)
        except unicorn.UcError as error:
            undefined = error.errno == unicorn.UC_ERR_INSN_INVALID
            what = "has an undefined instruction" if undefined else f"stops the emulator: {error}"
            self._fault = self._fault or self._exception(what)
        reached = self._uc.reg_read(arm.UC_ARM_REG_PC)
        if self._fault is None and state.stop_reason == STOP_PAUSED:
            return
        fault = self._fault or self._stop_fault()
        if fault is None and reached != end:
            fault = self._exception("sleeps (wfi or wfe), and nothing wakes it")
        if fault is not None:
            self._uc = None
            raise fault

    def _stop_fault(self) -> FirmwareFault | None:
        """Why profile_hook.c stopped the run."""
        state = self._state
        address = int(state.stop_address)
        if state.stop_reason == STOP_MISALIGNED:
            what = f"accesses {state.stop_size} bytes at the misaligned address {self._data(address)}"
            return self._error("misaligned", what, state.stop_pc, address)
        if state.stop_reason == STOP_LIMIT:
            what = f"is still running after {self._limit:,} instructions"
            return self._error("endless-loop", what, address, address)
        if state.stop_reason == STOP_TABLE:
            raise InternalError(f"no room to count the block at {address:#010x}", where=self._where)
        return None

    # ------------------------------------------------------------ callbacks of unicorn

    def _on_op_done(self, uc: Any, address: int, size: int, user: object) -> None:
        if self._observer is not None:
            self._observer(uc.reg_read(arm.UC_ARM_REG_R0))

    def _on_register_read(self, uc: Any, offset: int, size: int, page: int) -> int:
        try:
            value = self._registers.read(page + offset, size)
        except BadRegisterAccess as error:
            self._refuse_register(uc, page + offset, f"reads {size} bytes at {page + offset:#010x}: {error}")
            return 0
        if self._at_console and self._starved():
            self._state.pause = 1
        return value

    def _on_register_write(self, uc: Any, offset: int, size: int, value: int, page: int) -> None:
        try:
            self._registers.write(page + offset, size, value)
        except BadRegisterAccess as error:
            self._refuse_register(uc, page + offset, f"writes {size} bytes at {page + offset:#010x}: {error}")
        if self._at_console and self._registers.output:
            self._state.pause = 1  # console() hands the byte on before the next block

    def _refuse_register(self, uc: Any, address: int, what: str) -> None:
        self._fault = self._fault or self._error("register", what, uc.reg_read(arm.UC_ARM_REG_PC), address)
        uc.emu_stop()

    def _on_exception(self, uc: Any, number: int, user: object) -> None:
        name = _EXCEPTIONS.get(number, f"exception {number}")
        self._fault = self._fault or self._exception(f"raises an exception: {name}")
        uc.emu_stop()

    def _on_invalid_access(self, uc: Any, kind: int, address: int, size: int, value: int, user: object) -> bool:
        if self._fault is None:
            pc, sp = uc.reg_read(arm.UC_ARM_REG_PC), uc.reg_read(arm.UC_ARM_REG_SP)
            self._fault = self._access_fault(kind, address, size, pc, sp)
        return False

    # ------------------------------------------------------------ faults

    def _access_fault(self, kind: int, address: int, size: int, pc: int, sp: int) -> FirmwareFault:
        if kind in (unicorn.UC_MEM_FETCH_PROT, unicorn.UC_MEM_FETCH_UNMAPPED):
            what = f"jumps to {self._data(address)}, which is not code"
            return self._error("execute-data", what, self._state.last_block, address)
        verb = "reads" if kind in (unicorn.UC_MEM_READ_UNMAPPED, unicorn.UC_MEM_READ_PROT) else "writes"
        access = f"{verb} {size} bytes at {self._data(address)}"
        if kind == unicorn.UC_MEM_WRITE_PROT:
            return self._error("flash-write", f"{access}, in flash", pc, address)
        if address < self._stack_bottom and (sp < self._stack_bottom or address - sp + _NEAR_STACK >= 0):
            below = self._stack_bottom - address
            size_text = f"{self._stack_top - self._stack_bottom:,} B"
            what = f"overflows its stack of {size_text}: {access}, {below:,} B below it"
            return self._error("stack-overflow", what, pc, address)
        if 0x40000000 <= address < 0x60000000 or address >= 0xE0000000:  # Armv7-M manual, B3.1
            return self._error("register", f"{access}: no register that the port uses", pc, address)
        return self._error("unmapped", f"{access}, where no memory is", pc, address)

    def _exception(self, what: str) -> FirmwareFault:
        pc = self._uc.reg_read(arm.UC_ARM_REG_PC)
        if self._names.owner(pc) is None:  # it has jumped away: name the code that it left
            pc = self._state.last_block
        return self._error("exception", what, pc, pc)

    def _error(self, kind: FaultKind, what: str, pc: int, address: int) -> FirmwareFault:
        function = self._names.name(pc)
        return FirmwareFault(
            kind, f"{function} {what}", function=function, address=address, where=f"{self._where}, pc {pc:#010x}"
        )

    def _data(self, address: int) -> str:
        """Return an address with the name of what lies there."""
        owner = self._names.owner(address)
        return f"{address:#010x} ({self._names.name(address)})" if owner else f"{address:#010x}"

    def _memory(self, address: int, size: int) -> _Memory:
        for memory in (self._ram, self._flash):
            if memory.holds(address, size):
                return memory
        raise InternalError(f"{size} B at {address:#010x} are neither RAM nor flash", where=self._where)


class _Memory:
    """A region of the board, as an array that the engine and Python share."""

    def __init__(self, region: MemoryRegion) -> None:
        self._region = region
        self._bytes = (ctypes.c_uint8 * region.size)()
        self._view = memoryview(self._bytes).cast("B")

    def pointer(self) -> int:
        return ctypes.addressof(self._bytes)

    def map_into(self, uc: Any, permissions: int) -> None:
        uc.mem_map_ptr(self._region.origin, self._region.size, permissions, self.pointer())

    def holds(self, address: int, size: int) -> bool:
        offset = address - self._region.origin
        return offset >= 0 and offset + size <= self._region.size

    def fill(self, value: int) -> None:
        ctypes.memset(self._bytes, value, self._region.size)

    def read(self, address: int, size: int) -> bytes:
        offset = address - self._region.origin
        return bytes(self._view[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        offset = address - self._region.origin
        self._view[offset : offset + len(data)] = data


def _reader(machine: CortexM, regions: Regions, position: int, found: list[bytes]) -> Callable[[int], None]:
    """Return an observer that appends the bytes of an op's regions to `found`."""

    def read(op: int) -> None:
        for region in regions.get(op, ()):
            found.append(machine.read(region.at(position), region.size))

    return read
