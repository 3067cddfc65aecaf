"""Many points measured side by side, and which of them are worth having.

Knows nothing of models: a point is plain data, measure a function at the top of a module, so that both can be sent to
another process, or by a cluster's executor to another machine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from mcugen.errors import McugenError

P = TypeVar("P")
V = TypeVar("V")

# A worker's matrices are small, and every core has a worker already.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True)
class SweepResult(Generic[P, V]):
    """A point and what was measured there, or the text of the error that kept it from being measured."""

    point: P
    value: V | None
    error: str | None


def sweep(
    points: Sequence[P],
    measure: Callable[[P], V],
    executor: Executor | None = None,
    *,
    jobs: int | None = None,
    completed: Callable[[SweepResult[P, V]], None] | None = None,
) -> list[SweepResult[P, V]]:
    """measure(point) for all points; results in the points' order. A point that fails is a result with its error.

    executor: any concurrent.futures.Executor; it stays the caller's. None: processes of our own, `jobs` of them or
    as many as this computer has cores, each with one thread for its matrices. completed(result) is called as each
    comes in. An interrupt ends our own processes at once, and cancels what an executor has not begun.
    """
    if executor is not None:
        return _gather(points, measure, executor, completed, nullcontext())
    if not points:
        return []
    mine = set(multiprocessing.active_children())
    # spawned, not forked: this process may hold threads, and locks with them
    pool = ProcessPoolExecutor(
        min(jobs or os.cpu_count() or 1, len(points)),
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        return _gather(points, measure, pool, completed, _for_children())
    except BaseException:
        for child in set(multiprocessing.active_children()) - mine:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _gather(
    points: Sequence[P],
    measure: Callable[[P], V],
    executor: Executor,
    completed: Callable[[SweepResult[P, V]], None] | None,
    submitting: AbstractContextManager[None],
) -> list[SweepResult[P, V]]:
    futures: dict[Future[tuple[V | None, str | None]], int] = {}
    results: dict[int, SweepResult[P, V]] = {}
    try:
        with submitting:
            for index, point in enumerate(points):
                futures[executor.submit(_attempt, measure, point)] = index
        for future in as_completed(futures):
            failed = future.exception()  # of the executor: _attempt has caught what measure raised
            value, error = future.result() if failed is None else (None, _text(failed))
            index = futures[future]
            results[index] = SweepResult(points[index], value, error)
            if completed is not None:
                completed(results[index])
    finally:
        for future in futures:
            future.cancel()
    return [results[index] for index in range(len(points))]


def _attempt(measure: Callable[[P], V], point: P) -> tuple[V | None, str | None]:
    """Errors come back as text: not every exception can be sent from process to process."""
    try:
        return measure(point), None
    except Exception as error:
        return None, _text(error)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, McugenError) else f"{type(error).__name__}: {error}"


@contextmanager
def _for_children() -> Iterator[None]:
    """What processes inherit that are started meanwhile: one thread for numpy, which asks once, and where there are
    signals, a mask that leaves an interrupt to this process, even while they start."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    blocks = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else None
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other one beats: none is as low everywhere and lower somewhere. Equal points stand together."""
    return [not any(_beats(other, one) for other in costs) for one in costs]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
