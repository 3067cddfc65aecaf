"""A sweep gives the same whatever runs it; a point that fails is a result; the front is the one worked out by hand."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mcugen.errors import UsageError
from mcugen.sweep import ONE_THREAD, SweepResult, pareto_front, sweep

POINTS = [5, 3, 0, 7, -1, 2]


def measure(point: int) -> float:
    """1 / point; slow points are not the last ones. -1 is a user's error."""
    time.sleep(0.02 * (point == 5))
    if point < 0:
        raise UsageError(f"{point} is below 0", where="here", hint="take another")
    return 1 / point


EXPECTED = [
    SweepResult(5, 0.2, None),
    SweepResult(3, 1 / 3, None),
    SweepResult(0, None, "ZeroDivisionError: division by zero"),
    SweepResult(7, 1 / 7, None),
    SweepResult(-1, None, "-1 is below 0\n  where: here\n  try:   take another"),
    SweepResult(2, 0.5, None),
]


class AtOnce(Executor):
    """The least that an executor is: submit. Remembers what it was given."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Any, ...]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted.append(args)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture(params=["ours", "threads", "processes", "toy"])
def executor(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    if request.param == "ours":
        yield None
    elif request.param == "threads":
        with ThreadPoolExecutor(3) as pool:
            yield pool
    elif request.param == "processes":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool
    else:
        yield AtOnce()


def test_every_executor_gives_the_same_in_the_same_order(executor: Executor | None) -> None:
    seen: list[SweepResult[int, float]] = []
    assert sweep(POINTS, measure, executor, jobs=2, completed=seen.append) == EXPECTED
    assert sorted(seen, key=lambda r: POINTS.index(r.point)) == EXPECTED


def test_an_executor_is_given_plain_data() -> None:
    toy = AtOnce()
    sweep(POINTS, measure, toy)
    assert toy.submitted == [(measure, point) for point in POINTS]


def test_no_points_need_no_process() -> None:
    assert sweep([], measure) == []


def environment(_: int) -> tuple[list[str | None], bool]:
    return [os.environ.get(name) for name in ONE_THREAD], signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_our_workers_have_one_thread_and_leave_this_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    [found] = sweep([1], environment)
    assert found.value == (["1"] * len(ONE_THREAD), True)  # an interrupt is this process's to act on
    assert dict(os.environ) == before


def die(point: int) -> int:
    os._exit(point)


def test_a_worker_that_dies_is_the_points_error() -> None:
    [found] = sweep([3], die)
    assert found.value is None
    assert found.error is not None and found.error.startswith("BrokenProcessPool: ")


def unpicklable(_: int) -> object:
    return threading.Lock()


def test_a_value_that_cannot_come_back_is_the_points_error() -> None:
    [found] = sweep([3], unpicklable)
    assert found.error == "TypeError: cannot pickle '_thread.lock' object"


def sleep(seconds: int) -> None:
    time.sleep(seconds)


def test_a_callback_that_raises_ends_our_processes() -> None:
    def fail(result: SweepResult[int, None]) -> None:
        raise KeyboardInterrupt

    begun = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        sweep([0, 60], sleep, jobs=2, completed=fail)
    assert set(multiprocessing.active_children()) <= begun


INTERRUPTED = """
import sys
sys.path.insert(0, {tests!r})
from test_sweep import sleep
from mcugen.sweep import sweep
if __name__ == "__main__":
    try:
        sweep([0, 600], sleep, jobs=2, completed=lambda _: print("begun", flush=True))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_at_the_keyboard_ends_it_cleanly(tmp_path: Path) -> None:
    """SIGINT to the whole process group, as a terminal sends it: no traceback of a worker, be it idle, busy or still
    starting, and nothing left running."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)  # ends only when every process that holds the pipes has
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


# ---------------------------------------------------------------- the front


def test_the_front_by_hand() -> None:
    """Bytes and loss: (3, 3) loses to (2, 2), (1, 6) to (1, 5); the two (2, 2) are equal."""
    assert pareto_front([(1, 5), (2, 2), (3, 3), (4, 1), (2, 2), (1, 6)]) == [True, True, False, True, True, False]


def test_the_front_of_one_and_of_none_and_of_three_costs() -> None:
    assert pareto_front([(4, 4)]) == [True]
    assert pareto_front([]) == []
    assert pareto_front([(1, 2, 3), (1, 3, 2), (1, 3, 3)]) == [True, True, False]
