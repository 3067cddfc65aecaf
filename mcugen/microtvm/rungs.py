"""Rung 3 of the microTVM target: TVM's C on this computer under sanitizers, and the same TIR through TVM's LLVM
backend, which shares no code generator with it."""

from __future__ import annotations

from mcugen.ladder import Rungs
from mcugen.microtvm.emitter import find_tvm
from mcugen.microtvm.jit import JitMachine
from mcugen.microtvm.layout import make_microtvm_project, on_this_computer

RUNG = "rung 3, TVM"


def tvm_rungs(rungs: Rungs, command: str, name: str) -> None:
    """Climb rung 3; `rungs` takes the reports. name: of the C compiler."""
    here = on_this_computer(rungs.layout)
    rungs.host(command, name, here, make_microtvm_project)
    if not rungs.differs():
        title = f"{JitMachine.title} (Apache TVM {find_tvm()})"
        rungs.climb_machine(JitMachine(here.graph, here.plan), here, RUNG, title)
