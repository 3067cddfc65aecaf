"""GDB's remote serial protocol, as far as a debugger of one small core needs it.

Source: GDB manual, appendix "GDB Remote Serial Protocol". Requests are sent many at a time; a request acknowledges
the reply before it, so that nothing else is sent (QEMU takes any byte that comes while the core runs for a wish to
stop it).
"""

from __future__ import annotations

import socket
import time

_INTERRUPT = b"\x03"
_CHUNK = 1 << 16  # bytes received at a time
_MEMORY = 1024  # bytes of memory in a packet: 2,048 digits, half of what QEMU takes
_BURST = 64  # requests under way: their replies fit the socket's buffer, so that neither side waits for the other


class Disconnected(Exception):
    """The other side has gone, or does not answer in time."""


class GdbClient:
    """One side of a connection to a GDB server. timeout: seconds that the server may take for a reply."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._socket = connection
        self._timeout = timeout
        self._received = bytearray()

    def close(self) -> None:
        self._socket.close()

    def request(self, *requests: str) -> list[str]:
        """Send requests and return their replies, in order. Raises Disconnected."""
        replies = []
        for start in range(0, len(requests), _BURST):
            burst = requests[start : start + _BURST]
            self._send(b"".join(map(_packet, burst)))
            replies += [self._prompt_reply() for _ in burst]
        return replies

    def resume(self, request: str, timeout: float) -> str | None:
        """Let the core run ("c") or make one step ("s") and return why it stopped, e.g. "T05thread:01;".

        Returns None when it still runs after `timeout` seconds; interrupt() stops it then. Raises Disconnected.
        """
        self._send(_packet(request))
        try:
            return self._reply(time.monotonic() + timeout)
        except TimeoutError:
            return None

    def interrupt(self) -> str:
        """Stop the running core and return the reason that the server gives. Raises Disconnected."""
        self._send(_INTERRUPT)
        return self._prompt_reply()

    # ------------------------------------------------------------ registers and memory

    def registers(self, count: int) -> list[int]:
        """Return the first `count` registers of 32 bits."""
        (reply,) = self.request("g")
        content = bytes.fromhex(reply[: 8 * count])
        return [int.from_bytes(content[at : at + 4], "little") for at in range(0, len(content), 4)]

    def read(self, *pieces: tuple[int, int]) -> list[bytes]:
        """Return the memory of each piece (address, bytes). Raises ValueError where the server cannot read."""
        limits = [(at, min(_MEMORY, start + size - at)) for start, size in pieces for at in _parts(start, size)]
        parts = iter(self.request(*(f"m{at:x},{size:x}" for at, size in limits)))
        return [b"".join(bytes.fromhex(next(parts)) for _ in _parts(start, size)) for start, size in pieces]

    def write(self, address: int, content: bytes) -> None:
        """Overwrite memory. Raises ValueError where the server cannot write."""
        pieces = [(at, content[at - address : at - address + _MEMORY]) for at in _parts(address, len(content))]
        for reply in self.request(*(f"M{at:x},{len(piece):x}:{piece.hex()}" for at, piece in pieces)):
            if reply != "OK":
                raise ValueError(f"the server answers {reply!r}")

    # ------------------------------------------------------------ packets

    def _send(self, content: bytes) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(content)
        except OSError as error:
            raise Disconnected(str(error)) from error

    def _prompt_reply(self) -> str:
        try:
            return self._reply(time.monotonic() + self._timeout)
        except TimeoutError as error:
            raise Disconnected(f"no reply within {self._timeout:g} s") from error

    def _reply(self, deadline: float) -> str:
        """The next packet's content. Raises TimeoutError at the deadline, Disconnected."""
        while (end := self._received.find(b"#")) < 0 or len(self._received) < end + 3:
            self._receive(deadline)
        start = self._received.find(b"$") + 1  # behind acknowledgements
        content, checksum = bytes(self._received[start:end]), bytes(self._received[end + 1 : end + 3])
        del self._received[: end + 3]
        if start == 0 or int(checksum, 16) != sum(content) % 256:
            raise Disconnected(f"a damaged packet: {content[:40]!r}")
        return content.decode("ascii")

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            self._socket.settimeout(left)
            content = self._socket.recv(_CHUNK)
        except TimeoutError:
            raise
        except OSError as error:
            raise Disconnected(str(error)) from error
        if not content:
            raise Disconnected("the connection was closed")
        self._received += content


def _parts(address: int, size: int) -> range:
    return range(address, address + size, _MEMORY)


def _packet(request: str) -> bytes:
    content = request.encode("ascii")
    return b"$%s#%02x" % (content, sum(content) % 256)
