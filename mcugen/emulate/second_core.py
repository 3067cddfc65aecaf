"""A second core beside one in unicorn: same memories, registers of its own, and the two queues of words between them.

It runs whenever the first core looks for a word that is not there yet, up to where it sleeps for want of a word in
its turn, so that a run is the same every time. What the cores do meanwhile must not depend on who is first; eager
runs it at once when a word comes, which is the other extreme.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from mcugen.emulate.registers import PAGE, BadRegisterAccess

_ST, _WR, _RD = 0x50, 0x54, 0x58  # offsets in SIO
_VALID, _READY = 1 << 0, 1 << 1
_CPACR = 0xE000ED88


class Runner(Protocol):
    """What executes the second core's instructions."""

    def start(self, stack: int, entry: int) -> None:
        """Give it a stack and the address of its first instruction."""

    def run(self) -> None:
        """Go on until it sleeps."""


class Mailboxes:
    """The queues, with the second core's boot ROM at their end until it is started.

    sio: address of the block. depth: words that a queue holds. vectors: the vector table that the first core has.
    Sources: "RP2040 Datasheet" and "RP2350 Datasheet", sections "Inter-processor FIFOs (Mailboxes)" and "Launching
    Code On Processor Core 1".
    """

    eager = False

    def __init__(self, sio: int, depth: int, vectors: int, has_fpu: bool) -> None:
        self._sio, self._depth, self._vectors = sio, depth, vectors
        self._to_first: deque[int] = deque()
        self._to_second: deque[int] = deque()
        self._launch: list[int] = []
        self.runner: Runner | None = None
        self._started = False
        self._cpacr = 0
        self.pages = (sio, _CPACR & ~(PAGE - 1)) if has_fpu else (sio,)

    # ------------------------------------------------------------ the first core's side

    def addresses(self) -> tuple[int, ...]:
        return tuple(self._sio + offset for offset in (_ST, _WR, _RD))

    def read(self, address: int) -> int:
        if address == self._sio + _ST and not self._to_first:
            self._go_on()
        return self._look(address, self._to_first, self._to_second)

    def write(self, address: int, value: int) -> None:
        self._put(address, value, self._to_second)
        if not self._started:
            self._boot_rom(self._to_second.popleft())
        elif self.eager:
            self._go_on()

    def _go_on(self) -> None:
        if self._started and self._to_second and self.runner is not None:
            self.runner.run()

    def _boot_rom(self, word: int) -> None:
        """0, 0, 1, vector table, stack, entry: each is echoed; a wrong one among the first three begins anew."""
        if self.runner is None:
            return  # a chip whose second core does not answer
        step = len(self._launch)
        self._launch = [*self._launch, word] if step > 2 or word == (0, 0, 1)[step] else []
        self._to_first.append(word)
        if len(self._launch) == 6:
            *_, vectors, stack, entry = self._launch
            if vectors != self._vectors:
                raise BadRegisterAccess(f"the second core's vector table is at {vectors:#010x}")
            self._started = True
            self.runner.start(stack, entry)

    # ------------------------------------------------------------ the second core's side

    def second_read(self, address: int, size: int) -> int:
        """What the second core reads. Raises BadRegisterAccess."""
        self._check(address, size)
        return self._cpacr if address == _CPACR else self._look(address, self._to_second, self._to_first)

    def second_write(self, address: int, size: int, value: int) -> None:
        """Take what the second core writes. Raises BadRegisterAccess."""
        self._check(address, size)
        if address == _CPACR:
            self._cpacr = value
        else:
            self._put(address, value, self._to_first)

    def _check(self, address: int, size: int) -> None:
        allowed = (*self.addresses(), _CPACR) if len(self.pages) > 1 else self.addresses()
        if address not in allowed or size != 4:
            raise BadRegisterAccess("no register of the second core")

    # ------------------------------------------------------------ both

    def _look(self, address: int, inbox: deque[int], outbox: deque[int]) -> int:
        if address == self._sio + _ST:
            return (_VALID if inbox else 0) | (_READY if len(outbox) < self._depth else 0)
        if address == self._sio + _RD and inbox:
            return inbox.popleft()
        raise BadRegisterAccess("the queue is empty" if address == self._sio + _RD else "it can be written only")

    def _put(self, address: int, value: int, outbox: deque[int]) -> None:
        if address != self._sio + _WR:
            raise BadRegisterAccess("it can be read only")
        if len(outbox) == self._depth:
            raise BadRegisterAccess("the queue is full")
        outbox.append(value)
