"""How tasks wait for what the writer threads bring, and are told when nobody is left to bring it."""

from collections.abc import Awaitable, Callable
from typing import Any

import outcome
import trio

from cluster.raft.effects import HandingOver, NotLeader, Overfull
from storage.journal import JournalFull


class Overloaded(Exception):
    """Too much is under way: said before a command enters the log. The client may retry."""


class StorageFull(Exception):
    """The node's quota or disk is used up: said before a command enters the log. Deletes go on as long as
    the journal has room."""


class Stopped(Exception):
    """The writers stopped, or died of a bug or the disk. Whether what was under way took effect is known
    only after the next start."""


class Waiting:
    """Of the tasks of one node's trio thread."""

    def __init__(self) -> None:
        self._asking: set[trio.lowlevel.Task] = set()  # waiting for a result or an answer
        self._events: set[trio.Event] = set()  # waited for in `until`
        self._severed: set[trio.Event] = set()  # those that were left without an answer
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def slot(
        self,
    ) -> tuple[Callable[[Any], None], Callable[[Exception], None], Callable[[], Awaitable[Any]]]:
        """Where a task waits for what another thread's work brings: a result, or why there is none."""
        task = trio.lowlevel.current_task()
        waiting = True

        def done(value: Any) -> None:
            if waiting:
                self._asking.discard(task)
                trio.lowlevel.reschedule(task, outcome.Value(value))

        def failed(why: Exception) -> None:
            if waiting:
                self._asking.discard(task)
                trio.lowlevel.reschedule(task, outcome.Error(_as_told(why)))

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            self._asking.discard(task)
            return trio.lowlevel.Abort.SUCCEEDED

        async def wait() -> Any:
            nonlocal waiting
            self._asking.add(task)
            try:
                return await trio.lowlevel.wait_task_rescheduled(abort)
            finally:
                waiting = False

        return done, failed, wait

    async def until(self, event: trio.Event) -> None:
        self.check_running()
        self._events.add(event)
        try:
            await event.wait()
        finally:
            self._events.discard(event)
        if event in self._severed:
            self._severed.discard(event)
            self.check_running()

    def check_running(self) -> None:
        if self._stopped:
            raise Stopped("the writers of this node have stopped")

    def sever(self, stopped: Stopped) -> None:
        """Nobody is left to answer: let those who wait know it."""
        self._stopped = True
        for task in self._asking:
            trio.lowlevel.reschedule(task, outcome.Error(stopped))
        self._asking.clear()
        for event in self._events:
            if not event.is_set():
                self._severed.add(event)
                event.set()


def _as_told(why: Exception) -> Exception:
    if isinstance(why, JournalFull):
        return StorageFull(str(why))
    if isinstance(why, HandingOver):
        return NotLeader(why.group, None)
    if isinstance(why, Overfull):
        return Overloaded(str(why))
    return why
