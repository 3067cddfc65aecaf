"""A core in unicorn that runs the very ELF that is flashed, counts exactly, and forgives nothing.

cortex_m.py and riscv.py say what is particular to an instruction set; everything else is here.

Flash can be read, RAM read and written, and what the ELF says is code executed; nothing else is mapped but the
registers that the port uses. Every block passes through profile_hook.c, which counts and bounds the run, and every
memory access that is watched, which must be aligned. After a fault the core's state is not to be trusted: boot()
starts afresh.
"""

from __future__ import annotations

import abc
import ctypes
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

try:
    import unicorn
    from unicorn.unicorn_py3.unicorn import uclib
except ImportError:  # an optional dependency; UnicornMachine says what to install
    unicorn = None

from mcugen.emulate.elf import AddressBook, parse_elf
from mcugen.emulate.instructions import instruction_size
from mcugen.emulate.machine import FaultKind, FirmwareFault, Profile, Regions
from mcugen.emulate.profile_hook import (
    CODE_RISCV,
    CODE_THUMB,
    STOP_LIMIT,
    STOP_MISALIGNED,
    STOP_NO_CODE,
    STOP_NONE,
    STOP_PAUSED,
    STOP_TABLE,
    Code,
    ProfileState,
    load_profile_hook,
)
from mcugen.emulate.registers import PAGE, BadRegisterAccess, Registers
from mcugen.emulate.second_core import Mailboxes, Runner
from mcugen.errors import InternalError, ToolError
from mcugen.ir import Board, Firmware, MemoryRegion

INSTRUCTIONS = 1_000_000_000  # default limit of one run; several seconds on a PC
_RAM_AT_RESET = 0xA5  # not zero, so that code which forgets to initialise is found
_UNANSWERED_POLLS = 64  # in a row, with no input left: the firmware waits for its user
_NOWHERE = 0xFFFFFFFE  # an address where no run ends
_WFE = b"\x20\xbf"  # "wait for event"
_NEAR_STACK = 512  # bytes below the stack pointer that a push or a local array may reach first


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """What a core calls the things that a machine needs. Register numbers are unicorn's.

    code: MG_CODE_... of profile_hook.c. code_bit: set in the address of code that is jumped to (Thumb), else 0.
    status: the register whose IT state profile_hook.c clears; None where there is none.
    arguments: registers of a call's first integers; the rest lies on the stack, which is aligned to
    stack_alignment bytes at a call. result: the register of what a function returns.
    exceptions: what unicorn's exception numbers mean. skipped: bytes that unicorn moves pc on before it reports one.
    invalid: what unicorn's UC_ERR_INSN_INVALID means. sleep: the instructions that wait for an interrupt.
    """

    code: int
    code_bit: int
    pc: int
    sp: int
    link: int
    status: int | None
    arguments: tuple[int, ...]
    result: int
    stack_alignment: int
    exceptions: Mapping[int, str]
    skipped: int
    invalid: str
    sleep: str


def check_model(board: Board, ports: Collection[str], cores: Collection[str]) -> None:
    """Raise ToolError where no registers of the board's port, or no model of its core, are there."""
    if board.port not in ports or board.core not in cores:
        raise ToolError(
            f"there is no model of port {board.port} on {board.core}",
            where=f"emulating {board.name}",
            hint=f"choose a board with port {' or '.join(sorted(ports))}, or the host",
        )


class UnicornMachine(abc.ABC):
    """A Machine. Raises ToolError if unicorn, a C compiler or a model of the board lacks.

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
        self._set = self._instruction_set(board)
        self._sleeps = f"sleeps ({self._set.sleep}), and nothing wakes it"
        self._board = board
        self.title = f"{board.name} in unicorn"
        self._elf = parse_elf(firmware.image)
        self._names = AddressBook(self._elf)
        self._limit = instructions
        self._watched = watch_accesses
        self._hook = load_profile_hook()
        self._state = ProfileState()
        self._flash = _Memory(board.flash)
        self._ram = _Memory(board.ram)
        self._others = [_Memory(memory.region) for memory in board.memories]
        data = board.flash_data
        self._flash_data = None if data is None else self._flash.at(MemoryRegion(data, board.flash.size))
        code = board.ram_code
        self._ram_code = None if code is None else self._ram.at(MemoryRegion(code, board.ram.size))
        self._observer: Callable[[int], None] | None = None
        self._at_console = False
        self._fault: FirmwareFault | None = None
        self._sentinel = self._elf.symbol("mg_halt").address  # where the program ends: never executed before
        self._stack_top = self._elf.symbol("_estack").address
        self._stack_bottom = self._elf.symbol("_sstack").address
        self._uc: Any = None

    # ------------------------------------------------------------ what an instruction set says

    @abc.abstractmethod
    def _instruction_set(self, board: Board) -> InstructionSet:
        """The core of this board. Raises ToolError where there is no model of it."""

    @abc.abstractmethod
    def _engine(self) -> Any:
        """A new unicorn engine with this core."""

    @abc.abstractmethod
    def _peripherals(self) -> Registers:
        """The board's registers after reset."""

    @abc.abstractmethod
    def _start(self) -> int:
        """Give the core's registers their values after reset, and return where it begins."""

    @abc.abstractmethod
    def _is_peripheral(self, address: int) -> bool:
        """Could a peripheral be at this address, which is neither RAM nor flash?"""

    # ------------------------------------------------------------ Machine

    def boot(self) -> None:
        entry = self._reset()
        self._run(entry, self.address("main"))

    def call(self, symbol: str, *args: int) -> int:
        if self._uc is None:
            raise InternalError(f"call of {symbol} before boot, or after a fault", where=self.title)
        self._at_console = False
        core = self._set
        for register, value in zip(core.arguments, args, strict=False):
            self._uc.reg_write(register, value & 0xFFFFFFFF)
        stacked = b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in args[len(core.arguments) :])
        pointer = (self._stack_top - len(stacked)) & -core.stack_alignment
        self.write(pointer, stacked)
        self._uc.reg_write(core.sp, pointer)
        self._uc.reg_write(core.link, self._sentinel | core.code_bit)
        self._run(self.address(symbol), self._sentinel)
        return int(self._uc.reg_read(core.result))

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

    def instructions(self) -> int:
        """Return profile().total alone."""
        return int(self._state.instructions)

    def executions(self) -> Mapping[int, int]:
        """Return, since the same moment, how often the instruction at each address was executed."""
        counts: Counter[int] = Counter()
        riscv = self._set.code == CODE_RISCV
        for block in self._state.block:
            address, end = block.address, block.address + block.size
            while block.executions and address < end:
                counts[address] += block.executions
                address += instruction_size(int.from_bytes(self.read(address, 2), "little"), riscv)
        return counts

    # ------------------------------------------------------------ console

    def console(self, typed: bytes) -> Iterator[bytes]:
        """Run from reset through main() and yield the bytes that the console sends, as they come.

        typed: what the user types, all available from the start. Ends when the firmware waits for more,
        or returns from main().
        """
        entry = self._reset()
        self._at_console = True
        self._registers.input.extend(typed)
        program_counter = self.address("main")
        self._run(entry, program_counter)
        end = self._uc.reg_read(self._set.link) & ~self._set.code_bit  # where main() returns to
        while True:
            self._run(program_counter, end)
            program_counter = self._uc.reg_read(self._set.pc)
            if self._registers.output:
                yield bytes(self._registers.output)
                self._registers.output.clear()
            elif self._state.stop_reason != STOP_PAUSED or self._starved():
                return

    def _starved(self) -> bool:
        return not self._registers.input and self._registers.unanswered_polls >= _UNANSWERED_POLLS

    # ------------------------------------------------------------ reset

    def _reset(self) -> int:
        """Make a core in its reset state and return where it begins. A new engine: nothing survives a fault."""
        self._fault = None
        self._at_console = False
        self._flash.fill(0xFF)
        for memory in (self._ram, *self._others):
            memory.fill(_RAM_AT_RESET)
        for segment in self._elf.segments:
            if not self._flash.holds(segment.address, len(segment.data)):
                raise InternalError(
                    f"the ELF programs {len(segment.data):,} B at {segment.address:#010x}, outside the flash",
                    where=self.title,
                )
            self._flash.write(segment.address, segment.data)
        self._uc = self._engine()
        self._map_memories(self._uc)
        self._registers = self._peripherals()
        for page in self._registers.pages:
            self._uc.mmio_map(page, PAGE, self._on_register_read, page, self._on_register_write, page)
        entry = self._start()
        self._add_hooks()
        return entry

    def _map_memories(self, uc: Any) -> None:
        """Code is executed where the ELF has some: by page here, by instruction in profile_hook.c."""
        if self._flash_data is None:
            self._flash.map_into(uc, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        else:  # the bus of code reads no bytes: what it is asked for is a fault
            self._flash.map_into(uc, unicorn.UC_PROT_EXEC)
            self._flash_data.map_into(uc, unicorn.UC_PROT_READ)
        if self._ram_code is not None:
            self._ram_code.map_into(uc, unicorn.UC_PROT_EXEC)
        for memory in (self._ram, *self._others):
            executed = any(memory.holds(address, size) for address, size in self._elf.code)
            access = unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE
            memory.map_into(uc, access | (unicorn.UC_PROT_EXEC if executed else 0))

    def _add_hooks(self) -> None:
        self._add_counters(self._uc, self._state)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid_access)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        if self._elf.has("mg_op_done"):  # now: a hook has no effect on blocks that are translated already
            at = self.address("mg_op_done")
            self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_op_done, begin=at, end=at)

    def _add_counters(self, uc: Any, state: ProfileState) -> None:
        """Let profile_hook.c count what an engine does in `state`, from now on."""
        ctypes.memset(ctypes.byref(state), 0, ctypes.sizeof(state))
        for i, (address, size) in enumerate(self._elf.code):
            memory = self._memory(address, size)
            state.code[i] = Code(memory.pointer() + address - memory.origin, address, size)
        state.code_count = len(self._elf.code)
        state.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        state.read_register = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        state.write_register = ctypes.cast(uclib.uc_reg_write, ctypes.c_void_p).value
        state.code_kind, state.pc_register = self._set.code, self._set.pc
        state.has_status, state.status_register = int(self._set.status is not None), self._set.status or 0
        state.stack_low, state.stack_high = self._stack_bottom, self._stack_top
        state.stack_lowest = self._stack_top
        self._add_native_hook(uc, state, unicorn.UC_HOOK_BLOCK, self._hook.mg_on_block)
        if self._watched:
            kinds = unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE
            self._add_native_hook(uc, state, kinds, self._hook.mg_on_access)

    def _add_native_hook(self, uc: Any, state: ProfileState, kind: int, function: Any) -> None:
        """Register a C function through unicorn's C API; begin > end means every address."""
        handle = ctypes.c_size_t()
        callback = ctypes.cast(function, ctypes.c_void_p)
        user = ctypes.byref(state)
        begin, end = ctypes.c_uint64(1), ctypes.c_uint64(0)
        status = uclib.uc_hook_add(uc._uch, ctypes.byref(handle), ctypes.c_int(kind), callback, user, begin, end)
        if status != unicorn.UC_ERR_OK:
            raise InternalError(f"unicorn refuses a hook (error {status})", where=self.title)

    # ------------------------------------------------------------ a second core

    def _second_core(self, mailboxes: Mailboxes) -> Runner:
        """A second core of the same kind on this machine's memories, asleep."""
        return _SecondCore(self, mailboxes)

    # ------------------------------------------------------------ running

    def _run(self, address: int, end: int) -> None:
        """Run until `end` is reached or a pause was asked for; anything else is a fault."""
        state = self._state
        state.stop_reason, state.pause = STOP_NONE, 0
        state.limit = state.instructions + self._limit
        try:
            self._uc.emu_start(address | self._set.code_bit, end)
        except unicorn.UcError as error:
            undefined = error.errno == unicorn.UC_ERR_INSN_INVALID
            what = self._set.invalid if undefined else f"stops the emulator: {error}"
            what = self._sleeps if self._asleep(self._uc) else what
            self._fault = self._fault or self._exception(what)
        reached = self._uc.reg_read(self._set.pc)
        if self._fault is None and state.stop_reason == STOP_PAUSED:
            return
        fault = self._fault or self._stop_fault()
        if fault is None and reached != end:
            fault = self._exception(self._sleeps)
        if fault is not None:
            self._uc = None
            raise fault

    def _asleep(self, uc: Any) -> bool:
        """Has an engine stopped behind a WFE? unicorn does not know the instruction."""
        at = uc.reg_read(self._set.pc) - len(_WFE)
        in_code = any(begin <= at < begin + size for begin, size in self._elf.code)
        return self._set.code == CODE_THUMB and in_code and self.read(at, len(_WFE)) == _WFE

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
        if state.stop_reason == STOP_NO_CODE:
            return self._error(
                "execute-data", f"jumps to {self._data(address)}, which is not code", state.last_block, address
            )
        if state.stop_reason == STOP_TABLE:
            raise InternalError(f"no room to count the block at {address:#010x}", where=self.title)
        return None

    # ------------------------------------------------------------ callbacks of unicorn

    def _on_op_done(self, uc: Any, address: int, size: int, user: object) -> None:
        if self._observer is not None:
            self._observer(uc.reg_read(self._set.arguments[0]))

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
        self._fault = self._fault or self._error("register", what, uc.reg_read(self._set.pc), address)
        uc.emu_stop()

    def _on_exception(self, uc: Any, number: int, user: object) -> None:
        name = self._set.exceptions.get(number, f"exception {number}")
        self._fault = self._fault or self._exception(f"raises an exception: {name}", self._set.skipped)
        uc.emu_stop()

    def _on_invalid_access(self, uc: Any, kind: int, address: int, size: int, value: int, user: object) -> bool:
        if self._fault is None:
            pc, sp = uc.reg_read(self._set.pc), uc.reg_read(self._set.sp)
            self._fault = self._access_fault(kind, address, size, pc, sp)
        return False

    # ------------------------------------------------------------ faults

    def _access_fault(self, kind: int, address: int, size: int, pc: int, sp: int) -> FirmwareFault:
        if kind in (unicorn.UC_MEM_FETCH_PROT, unicorn.UC_MEM_FETCH_UNMAPPED):
            what = f"jumps to {self._data(address)}, which is not code"
            return self._error("execute-data", what, self._state.last_block, address)
        verb = "reads" if kind in (unicorn.UC_MEM_READ_UNMAPPED, unicorn.UC_MEM_READ_PROT) else "writes"
        access = f"{verb} {size} bytes at {self._data(address)}"
        below_stack = address < self._stack_bottom and (sp < self._stack_bottom or address - sp + _NEAR_STACK >= 0)
        if kind == unicorn.UC_MEM_WRITE_PROT and not below_stack:
            return self._error("flash-write", f"{access}, in flash", pc, address)
        if below_stack:
            below = self._stack_bottom - address
            size_text = f"{self._stack_top - self._stack_bottom:,} B"
            what = f"overflows its stack of {size_text}: {access}, {below:,} B below it"
            return self._error("stack-overflow", what, pc, address)
        if kind == unicorn.UC_MEM_READ_PROT:
            return self._error("unmapped", f"{access}, where only code is", pc, address)
        if self._is_peripheral(address):
            return self._error("register", f"{access}: no register that the port uses", pc, address)
        return self._error("unmapped", f"{access}, where no memory is", pc, address)

    def _exception(self, what: str, skipped: int = 0) -> FirmwareFault:
        pc = self._uc.reg_read(self._set.pc) - skipped
        owner = self._names.owner(pc)
        if owner is not None and not owner.is_function:  # e.g. the vector table, by a null pointer: name the caller
            caller = self._uc.reg_read(self._set.link) & ~self._set.code_bit
            return self._error("execute-data", f"jumps to {self._data(pc)}, which is not code", caller, pc)
        if owner is None:  # it has jumped away: name the code that it left
            pc = self._state.last_block
        return self._error("exception", what, pc, pc)

    def _error(self, kind: FaultKind, what: str, pc: int, address: int) -> FirmwareFault:
        function = self._names.name(pc)
        return FirmwareFault(
            kind, f"{function} {what}", function=function, address=address, where=f"{self.title}, pc {pc:#010x}"
        )

    def _data(self, address: int) -> str:
        """Return an address with the name of what lies there."""
        owner = self._names.owner(address)
        return f"{address:#010x} ({self._names.name(address)})" if owner else f"{address:#010x}"

    def _memory(self, address: int, size: int) -> _Memory:
        for memory in (self._ram, self._flash, self._flash_data, self._ram_code, *self._others):
            if memory is not None and memory.holds(address, size):
                return memory
        raise InternalError(f"{size} B at {address:#010x} are neither RAM nor flash", where=self.title)


class _SecondCore:
    """The Runner of a machine: an engine of its own. Its faults are the machine's."""

    def __init__(self, machine: UnicornMachine, mailboxes: Mailboxes) -> None:
        self._machine = machine
        self._mailboxes = mailboxes
        self._uc = machine._engine()
        self._pc = 0
        self.state = ProfileState()
        machine._map_memories(self._uc)
        for page in mailboxes.pages:
            self._uc.mmio_map(page, PAGE, self._on_read, page, self._on_write, page)
        machine._add_counters(self._uc, self.state)
        self.state.stack_low = self.state.stack_high = self.state.stack_lowest = 0  # start() knows
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid_access)

    def start(self, stack: int, entry: int) -> None:
        self._uc.reg_write(self._machine._set.sp, stack)
        self._pc = entry & ~self._machine._set.code_bit

    def run(self) -> None:
        machine, state, core = self._machine, self.state, self._machine._set
        state.stop_reason, state.limit = STOP_NONE, state.instructions + machine._limit
        try:
            self._uc.emu_start(self._pc | core.code_bit, _NOWHERE)
        except unicorn.UcError:
            self._pc = self._uc.reg_read(core.pc)
            if machine._asleep(self._uc) and machine._fault is None:
                return
        what = f"stops the second core, at {machine._names.name(self._uc.reg_read(core.pc))}"
        if state.stop_reason == STOP_MISALIGNED:
            what = f"lets the second core access {state.stop_size} bytes at the misaligned {state.stop_address:#010x}"
        self._refuse(what)

    def _on_read(self, uc: Any, offset: int, size: int, page: int) -> int:
        try:
            return self._mailboxes.second_read(page + offset, size)
        except BadRegisterAccess as error:
            self._refuse(f"lets the second core read {size} bytes at {page + offset:#010x}: {error}")
            return 0

    def _on_write(self, uc: Any, offset: int, size: int, value: int, page: int) -> None:
        try:
            self._mailboxes.second_write(page + offset, size, value)
        except BadRegisterAccess as error:
            self._refuse(f"lets the second core write {size} bytes at {page + offset:#010x}: {error}")

    def _on_invalid_access(self, uc: Any, kind: int, address: int, size: int, value: int, user: object) -> bool:
        pc, sp = uc.reg_read(self._machine._set.pc), uc.reg_read(self._machine._set.sp)
        self._machine._fault = self._machine._fault or self._machine._access_fault(kind, address, size, pc, sp)
        return False

    def _refuse(self, what: str) -> None:
        machine = self._machine
        pc = machine._uc.reg_read(machine._set.pc)
        machine._fault = machine._fault or machine._error("exception", what, pc, self._pc)
        self._uc.emu_stop()
        machine._uc.emu_stop()


class _Memory:
    """A region of the board, as an array that the engine and Python share."""

    def __init__(self, region: MemoryRegion, shared: ctypes.Array[ctypes.c_uint8] | None = None) -> None:
        self._region = region
        self._bytes = (ctypes.c_uint8 * region.size)() if shared is None else shared
        self._view = memoryview(self._bytes).cast("B")

    def at(self, region: MemoryRegion) -> _Memory:
        """The same bytes at other addresses."""
        return _Memory(region, self._bytes)

    @property
    def origin(self) -> int:
        return self._region.origin

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


def _reader(machine: UnicornMachine, regions: Regions, position: int, found: list[bytes]) -> Callable[[int], None]:
    """Return an observer that appends the bytes of an op's regions to `found`."""

    def read(op: int) -> None:
        for region in regions.get(op, ()):
            found.append(machine.read(region.at(position), region.size))

    return read
