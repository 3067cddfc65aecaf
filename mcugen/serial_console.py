"""The console of a real board over a serial port: find the port, ask which build runs, type lines, read answers."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mcugen.console import END_OF_TRANSMISSION
from mcugen.errors import ToolError, UsageError
from mcugen.rendering import LONGEST_PROMPT

BAUD = 115_200  # where a board file states no MG_UART_BAUD
_READ_S = 0.25  # how long a read waits for the first byte
_BUILD_S, _BUILD_TRIES = 2.0, 5  # a board may still be starting, or in the middle of an answer
_ANSWER_S = 60.0  # of silence: longer than the slowest board takes to read a prompt
_CLEAR = b"\x08" * LONGEST_PROMPT  # takes back what somebody began to type
_BUILD = re.compile(r"(.+), build ([0-9a-f]+)\n", re.DOTALL)


class Link(Protocol):
    """A serial port. read: what has come, or nothing where that takes long. Both raise ToolError when it is gone."""

    name: str

    def read(self) -> bytes: ...

    def write(self, content: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Running:
    """What a board says of itself. title: "home on nucleo-f446re"; build: its build id."""

    title: str
    build: str


class SerialConsole:
    """The console at the end of a link. Lines are sent one at a time: a board that computes does not listen."""

    def __init__(self, link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock

    @property
    def name(self) -> str:
        return self._link.name

    def running(self) -> Running:
        """Ask which build runs, whatever the board was doing. Raises ToolError where no such answer comes."""
        heard = b""
        for _ in range(_BUILD_TRIES):
            self._link.write(_CLEAR + b"#build\n")
            for text in self._complete(_BUILD_S):
                heard = text
                if found := _BUILD.fullmatch(text.decode(errors="replace")):
                    while self._link.read():
                        pass  # an answer to an earlier try
                    return Running(found[1], found[2])
        what, hint = "nothing answers", "press the board's reset button; look whether this is its port, and its speed"
        if heard:
            shown = heard.decode(errors="replace").splitlines()[-1][-100:]
            what, hint = f"no build id comes, but {shown!r}", "flash a firmware that this mcugen built"
        raise ToolError(what, where=f"serial port {self.name}", hint=hint)

    def ask(self, line: bytes) -> Iterator[bytes]:
        """Type a line and yield its answer as it comes, without the byte that ends it."""
        self._link.write(line + b"\n")
        for part in self._parts(_ANSWER_S):
            text, end, _ = part.partition(END_OF_TRANSMISSION)
            if text:
                yield text
            if end:
                return
        raise ToolError(
            f"the board falls silent for {_ANSWER_S:g} s in its answer to {line.decode(errors='replace')!r}",
            where=f"serial port {self.name}",
            hint="press its reset button and try again; if it happens again, debug it there: faults end in a loop",
        )

    def converse(self, typed: bytes) -> Iterator[bytes]:
        """Type lines as Emulator.console takes them, and yield what the board would print after a reset."""
        yield f"{self.running().title}\n".encode() + END_OF_TRANSMISSION
        for line in typed.splitlines():
            yield from self.ask(line)
            yield END_OF_TRANSMISSION

    def close(self) -> None:
        self._link.close()

    def _complete(self, patience: float) -> Iterator[bytes]:
        """Answers without the byte that ends each, until it is silent for that long; then what has no end."""
        text = b""
        for part in self._parts(patience):
            *ended, text = (text + part).split(END_OF_TRANSMISSION)
            yield from ended
        if text:
            yield text

    def _parts(self, patience: float) -> Iterator[bytes]:
        """What comes, as it comes, until it is silent for that long."""
        heard = self._clock()
        while self._clock() - heard < patience:
            if part := self._link.read():
                yield part
                heard = self._clock()


# ---------------------------------------------------------------- pyserial


def open_console(port: str | None, baud: int = BAUD) -> SerialConsole:
    """The console at a serial port: where none is named, at the only one that is a USB device's.

    Raises ToolError where pyserial is missing or the port cannot be opened, UsageError where there are several.
    """
    try:
        import serial
        from serial.tools import list_ports
    except ImportError as error:
        raise ToolError(
            "pyserial is not installed", where="serial port", hint="pip install 'mcugen[flash]'"
        ) from error
    name = port or _only([(found.device, found.description) for found in list_ports.comports() if found.vid])
    try:
        opened = serial.Serial(name, baud, timeout=_READ_S, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        raise ToolError(
            f"{name} cannot be opened: {error}", where=f"serial port {name}", hint=_opening_hint(error)
        ) from error
    return SerialConsole(_Pyserial(opened, serial.SerialException))


def _only(ports: list[tuple[str, str]]) -> str:
    """The only one of (device, description)."""
    if len(ports) == 1:
        return ports[0][0]
    if not ports:
        raise ToolError(
            "no USB device here has a serial port",
            where="--port",
            hint="connect the board with a cable that carries data, or name its port with --port",
        )
    shown = ", ".join(f"{device} ({description})" for device, description in sorted(ports))
    raise UsageError(
        f"{len(ports)} serial ports may be the board's: {shown}", where="--port", hint=f"--port {sorted(ports)[0][0]}"
    )


def _opening_hint(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EACCES:
        return "join the group that may open it, `sudo usermod -aG dialout $USER`, and log in again"
    if number in (errno.EBUSY, errno.EAGAIN):
        return "close the other program that has it open"
    return "look whether the board is connected: without --port, mcugen finds it"


class _Pyserial:
    """A Link over an open port of pyserial. gone: what it raises when the port has vanished."""

    def __init__(self, port: Any, gone: type[Exception]) -> None:
        self.name: str = port.name
        self._port = port
        self._gone = gone

    def read(self) -> bytes:
        try:
            return bytes(self._port.read(max(1, self._port.in_waiting)))
        except (self._gone, OSError) as error:
            raise self._lost(error) from error

    def write(self, content: bytes) -> None:
        try:
            self._port.write(content)
        except (self._gone, OSError) as error:
            raise self._lost(error) from error

    def close(self) -> None:
        self._port.close()

    def _lost(self, error: Exception) -> ToolError:
        return ToolError(
            f"the board is gone: {error}",
            where=f"serial port {self.name}",
            hint="connect it again; another program may have opened its port",
        )
