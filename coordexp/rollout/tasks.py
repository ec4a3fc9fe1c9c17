"""Work in, its result or its error out, from threads that are left behind where they hang. Contract ids: ROLL-016, 023.

A call into a library that hangs cannot be called back. Its thread ends with the process, and does not keep it.
"""

from __future__ import annotations

import time
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Generic, TypeVar

from coordexp.rollout.types import RolloutError
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_POLL_S = 1.0
Result = TypeVar("Result")


class Task(Thread, Generic[Result]):
    """`work` in a thread of its own, which is put into `ended` when it is over; `what` it is, for an error."""

    def __init__(self, what: str, work: Callable[[], Result], ended: SimpleQueue[Task[Result]] | None = None) -> None:
        super().__init__(daemon=True, name=what)
        self._work, self._ended = work, ended
        self._results: list[Result] = []
        self._error: RolloutError | None = None

    def run(self) -> None:
        """Work. Other errors than `RolloutError` are faults of the program: the thread ends with their traceback."""
        try:
            self._results.append(self._work())
        except RolloutError as error:
            self._error = error
        finally:
            if self._ended is not None:
                self._ended.put(self)

    def outcome(self) -> Result:
        """What the work has returned. Raises what it has raised."""
        if self._error is not None:
            raise self._error
        if not self._results:
            raise RolloutServerError(f"{self.name}: failed by a fault of the program; its traceback stands above")
        return self._results[0]


def run_together(work: Sequence[tuple[str, Callable[[], Result]]]) -> list[Result]:
    """The results in order. The first failure is raised at once, however long the others would take."""
    ended: SimpleQueue[Task[Result]] = SimpleQueue()
    tasks = [Task(what, each, ended) for what, each in work]
    for task in tasks:
        task.start()
    for _ in tasks:
        ended.get().outcome()
    return [task.outcome() for task in tasks]


def within(seconds: float, what: str, alive: Callable[[], bool], work: Callable[[], Result]) -> Result:
    """What `work` returns, if it does so within `seconds` and `alive` stays true meanwhile.

    Raises `RolloutServerError` otherwise, and what `work` raises.
    """
    task = Task(what, work)
    task.start()
    deadline = time.monotonic() + seconds
    while task.is_alive():
        task.join(min(_POLL_S, max(deadline - time.monotonic(), 0.01)))
        if task.is_alive() and not alive():
            raise RolloutServerError(f"{what}: the server has ended in the middle of it; its log has the cause")
        if task.is_alive() and time.monotonic() >= deadline:
            raise RolloutServerError(
                f"{what}: not finished within {seconds:g} s (vllm.server.timeout_s), so the server or the connection "
                "hangs; look at its log, and raise the limit if the model needs longer"
            )
    return task.outcome()
