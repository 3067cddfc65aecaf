"""The application's console protocol, as firmware/app/console.h states it: every answer ends with byte 4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mcugen.sampler import Sampler

END_OF_TRANSMISSION = b"\x04"


def answers(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cut a console's output at the ends of answers: yields (index of the answer, bytes of it), as they come.

    Index 0 is the banner; an answer may come in several parts, or in none.
    """
    index = 0
    for part in stream:
        first, *rest = part.split(END_OF_TRANSMISSION)
        if first:
            yield index, first
        for piece in rest:
            index += 1
            if piece:
                yield index, piece


def sampler_line(s: Sampler) -> str:
    """The command that makes the console draw tokens like `s`."""
    return f"#sampler {s.multiplier} {s.shift} {s.top_k} {s.top_p} {s.state}"
