"""Every error a user can meet: what happened, where, and what to do about it."""

from __future__ import annotations


class McugenError(Exception):
    """An error with a remedy; the command line prints it and exits with `exit_code`.

    what: one sentence with the values at hand.
    where: the file, pass, op or tool the error comes from.
    hint: what to do next, computed from the values where it can be.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  try:   {self.hint}"


class UsageError(McugenError):
    """The command line or a board file asks for something that makes no sense."""

    exit_code = 2


class InputError(McugenError):
    """A checkpoint, tokenizer, board file or text is missing or malformed."""

    exit_code = 3


class DoesNotFitError(McugenError):
    """The model does not fit the board's flash or RAM."""

    exit_code = 4


class ToolError(McugenError):
    """A compiler, emulator or optional package is missing, or failed."""

    exit_code = 5


class MismatchError(McugenError):
    """The firmware computed something else than the simulator."""

    exit_code = 6


class InternalError(McugenError):
    """A gate between two passes found a defect of mcugen itself."""

    exit_code = 70

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(what, where=where, hint="this is a defect of mcugen: please report it with the command line")
