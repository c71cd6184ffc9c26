"""One cut over all shards of a node: every writer pauses between two commits until all have (law 11)."""

from collections.abc import Sequence
from functools import partial

import trio

from cluster.shard_writer import Pause, ShardWriter
from cluster.waiting import Stopped, Waiting
from storage.shard import Frozen


class Cuts:
    """Those that are being made on one node."""

    def __init__(self, writers: Sequence[ShardWriter], waiting: Waiting) -> None:
        self._writers = writers
        self._waiting = waiting
        self._pauses: list[Pause] = []

    def abandon(self) -> None:
        """The writers stop: one that is dead never reaches its pause."""
        for pause in self._pauses:
            pause.abandoned = True
            pause.resume.set()

    async def freeze(self) -> list[Frozen]:
        """One cut: all writers pause between commits, each shard is frozen there, writers go on
        (law 11). Who gets the frozen shards closes them. Raises Stopped."""
        token = trio.lowlevel.current_trio_token()
        reached = [trio.Event() for _ in self._writers]
        pauses = [Pause(partial(token.run_sync_soon, event.set)) for event in reached]
        self._waiting.check_running()
        self._pauses.extend(pauses)
        try:
            for writer, pause in zip(self._writers, pauses, strict=True):
                writer.pause(pause)
            for event in reached:
                await self._waiting.until(event)
            if any(pause.abandoned for pause in pauses):
                raise Stopped("the writers stopped before the cut was made")
        except BaseException:
            for pause in pauses:
                pause.abandoned = True
            raise
        finally:
            for pause in pauses:
                pause.resume.set()
                self._pauses.remove(pause)
        return [pause.frozen for pause in pauses if pause.frozen is not None]
