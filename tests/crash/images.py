"""Directories as a disk might hold them when the power fails at some point of a trace.

What may be there, at least: everything that was synced. What else, for each image anew by the given
randomness:

- Data. Of each unsynced write any set of sectors (512 bytes or 4 KiB) may be there. A sector holds what it
held
  after some of the writes to it, in their order, as the page cache does: not the second write without the
  first. A write through an O_DSYNC descriptor takes along what was written to the same 4 KiB pages before,
  and no more.
- Sizes. Each file has the size it had at its last sync or after any later change. Bytes in between that were
not
  kept are zeros, bytes beyond are gone.
- Names. Creations, renames, links and removals take effect in order, for each directory up to some point of
its
  own, or all together up to one point, as a journaling file system does. Syncing a file does not keep its
  name, and syncing a directory does not keep the directory's own. A rename is atomic, between directories
  too.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.crash.trace import Event, Op, Trace

PAGE_BYTES = 4096
SECTORS_BYTES = (512, 4096)
BLOCK_BYTES = 64 << 10  # zeros in blocks of this size become holes in an image
KEEP_CHANCES = (0.0, 0.1, 0.5, 0.9, 1.0)  # of a write's sectors, and of names


class Image(NamedTuple):
    path: Path
    cut: int  # the events before it have happened
    acknowledged: list[str]  # the marker lines before it


class _Write(NamedTuple):
    offset: int
    data: bytes


class _Resize(NamedTuple):
    size: int
    shrinks: bool


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    size: int = 0  # as the program sees it
    pending: list[_Write | _Resize] = field(default_factory=list)

    def write(self, offset: int, data: bytes, *, durable: bool) -> None:
        self.pending.append(_Write(offset, data))
        if offset + len(data) > self.size:
            self.size = offset + len(data)
            self.pending.append(_Resize(self.size, shrinks=False))
        if durable:
            self._sync_pages(offset, offset + len(data))

    def resize(self, size: int) -> None:
        self.pending.append(_Resize(size, shrinks=size < self.size))
        self.size = size

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        _fit(self.durable, self.size)
        self.pending.clear()

    def _sync_pages(self, start: int, end: int) -> None:
        """What a write through O_DSYNC keeps: its pages, and the size that they need."""
        start, end = start // PAGE_BYTES * PAGE_BYTES, -(-end // PAGE_BYTES) * PAGE_BYTES
        rest: list[_Write | _Resize] = []
        for change in self.pending:
            if isinstance(change, _Resize):
                _apply(self.durable, change)  # sizes are metadata of one file and go together
                continue
            first, last = change.offset, change.offset + len(change.data)
            kept_from, kept_to = max(first, start), min(last, end)
            if kept_from >= kept_to:
                rest.append(change)
                continue
            _apply(self.durable, _Write(kept_from, change.data[kept_from - first : kept_to - first]))
            if first < kept_from:
                rest.append(_Write(first, change.data[: kept_from - first]))
            if kept_to < last:
                rest.append(_Write(kept_to, change.data[kept_to - first :]))
        _fit(self.durable, self.size)
        self.pending = rest

    def torn(self, rng: Random) -> bytearray:
        """The bytes that a disk might hold."""
        if not self.pending:
            return self.durable
        content = bytearray(self.durable)
        sector, chance = rng.choice(SECTORS_BYTES), rng.choice(KEEP_CHANCES)
        sizes_kept = rng.randint(0, sum(isinstance(change, _Resize) for change in self.pending))
        size = len(content)
        stopped: set[int] = set()  # sectors that got no more after some write
        for change in self.pending:
            if isinstance(change, _Write):
                _write_some(content, change, sector, stopped, rng, rng.choice((chance, 0.0, 1.0)))
            elif sizes_kept:
                sizes_kept -= 1
                size = change.size
                if change.shrinks:
                    _fit(content, size)
        _fit(content, size)
        return content


def _apply(content: bytearray, change: _Write | _Resize) -> None:
    if isinstance(change, _Resize):
        _fit(content, change.size)
    else:
        _fit(content, max(len(content), change.offset + len(change.data)))
        content[change.offset : change.offset + len(change.data)] = change.data


def _fit(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _write_some(
    content: bytearray, change: _Write, sector: int, stopped: set[int], rng: Random, chance: float
) -> None:
    end = change.offset + len(change.data)
    for number in range(change.offset // sector, -(-end // sector)):
        if number in stopped:
            continue
        if rng.random() >= chance:
            stopped.add(number)
            continue
        first, last = max(change.offset, number * sector), min(end, (number + 1) * sector)
        _apply(content, _Write(first, change.data[first - change.offset : last - change.offset]))


class _Folder(dict[str, "_File | _Folder"]):
    """Names. Folders and files are told apart by identity, whatever their names become."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class _Renaming(NamedTuple):
    """A change of names: `what` leaves `from_` (if any) and comes to `to` (if any)."""

    what: _File | _Folder | None
    from_: tuple[_Folder, str] | None
    to: tuple[_Folder, str] | None

    @property
    def folders(self) -> list[_Folder]:
        return [place[0] for place in (self.from_, self.to) if place]


class Disk:
    """Follows a trace. Keeps the names as the program sees them, and those that are durable."""

    def __init__(self, trace: Trace) -> None:
        self._inodes: dict[int, _File | _Folder] = {}
        self._seen = _Folder()  # the program's view
        self._kept: dict[_Folder, dict[str, _File | _Folder]] = {self._seen: {}}  # the durable view of each
        self._pending: list[_Renaming] = []
        self.acknowledged: list[str] = []
        self._read_start(trace)

    def _read_start(self, trace: Trace) -> None:
        self._inodes[trace.start_inodes["."]] = self._seen
        for path in sorted(trace.start.rglob("*")):
            name = path.relative_to(trace.start).as_posix()
            made: _File | _Folder
            if path.is_dir():
                made = _Folder()
                self._kept[made] = {}
            else:
                content = path.read_bytes()
                made = _File(bytearray(content), len(content))
            self._inodes[trace.start_inodes[name]] = made
            folder, last = self._place(name)
            folder[last] = made
            self._kept[folder][last] = made

    def follow(self, event: Event) -> None:
        match event.op:
            case Op.CREATE | Op.MKDIR:
                made = _File() if event.op == Op.CREATE else _Folder()
                if isinstance(made, _Folder):
                    self._kept[made] = {}
                self._inodes[event.inode] = made
                self._rename(_Renaming(made, None, self._place(event.first)))
            case Op.WRITE:
                self._file(event).write(event.offset, event.data, durable=event.durable)
            case Op.RESIZE:
                self._file(event).resize(event.size)
            case Op.ALLOCATE:
                if event.size > self._file(event).size:
                    self._file(event).resize(event.size)
            case Op.RENAME:
                folder, name = self._place(event.first)
                self._rename(_Renaming(folder[name], (folder, name), self._place(event.second)))
            case Op.LINK:
                folder, name = self._place(event.first)
                self._rename(_Renaming(folder[name], None, self._place(event.second)))
            case Op.UNLINK | Op.RMDIR:
                self._rename(_Renaming(None, self._place(event.first), None))
            case Op.SYNC:
                self._sync(self._inodes[event.inode])
            case Op.SYNC_ALL:
                for known in self._inodes.values():
                    self._sync(known)
            case Op.MARK:
                self.acknowledged.extend(event.data.decode().splitlines())

    def write_image(self, path: Path, rng: Random, under_way: Event | None = None) -> None:
        """Make `path`, which does not exist, one of the directories that a disk might hold now.

        A write `under_way` has not returned: even if it is to be durable, it may be there in part.
        """
        if under_way and under_way.op == Op.WRITE:
            file = self._file(under_way)
            before = file.size, list(file.pending)
            file.write(under_way.offset, under_way.data, durable=False)
            self.write_image(path, rng)
            file.size, file.pending = before
            return
        names = {folder: dict(kept) for folder, kept in self._kept.items()}
        for renaming in self._some_pending(rng):
            _rename_in(names, renaming)
        _write_folder(self._seen, names, path, rng)

    def _file(self, event: Event) -> _File:
        found = self._inodes[event.inode]
        assert isinstance(found, _File), f"{event.op.name} of a directory"
        return found

    def _place(self, path: str) -> tuple[_Folder, str]:
        *folders, name = path.split("/")
        at = self._seen
        for folder in folders:
            below = at[folder]
            assert isinstance(below, _Folder), f"{path}: {folder} is a file"
            at = below
        return at, name

    def _rename(self, renaming: _Renaming) -> None:
        if renaming.from_:
            del renaming.from_[0][renaming.from_[1]]
        if renaming.to and renaming.what is not None:
            renaming.to[0][renaming.to[1]] = renaming.what
        self._pending.append(renaming)

    def _sync(self, what: _File | _Folder) -> None:
        if isinstance(what, _File):
            what.sync()
            return
        needed, later = {what}, []
        flushed = []
        for renaming in reversed(self._pending):
            if needed.isdisjoint(renaming.folders):
                later.append(renaming)
            else:
                needed.update(renaming.folders)  # what came before in those directories comes along
                flushed.append(renaming)
        for renaming in reversed(flushed):
            _rename_in(self._kept, renaming)
        self._pending = later[::-1]

    def _some_pending(self, rng: Random) -> Iterator[_Renaming]:
        if rng.random() < 0.5:
            yield from self._pending[: rng.randint(0, len(self._pending))]
            return
        chance = rng.choice(KEEP_CHANCES)
        stopped: set[_Folder] = set()
        for renaming in self._pending:
            if stopped.isdisjoint(renaming.folders) and rng.random() < chance:
                yield renaming
            else:
                stopped.update(renaming.folders)


def _rename_in(names: dict[_Folder, dict[str, _File | _Folder]], renaming: _Renaming) -> None:
    if renaming.from_:
        names[renaming.from_[0]].pop(renaming.from_[1], None)
    if renaming.to and renaming.what is not None:
        names[renaming.to[0]][renaming.to[1]] = renaming.what


def _write_folder(folder: _Folder, names, path: Path, rng: Random) -> None:
    path.mkdir()
    for name, what in names[folder].items():
        if isinstance(what, _Folder):
            _write_folder(what, names, path / name, rng)
        else:
            _write_file(path / name, what.torn(rng))


def _write_file(path: Path, content: bytearray) -> None:
    with open(path, "wb") as file:
        view = memoryview(content)
        for start in range(0, len(content), BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, len(content))
            if content.count(0, start, end) < end - start:
                file.seek(start)
                file.write(view[start:end])
        file.truncate(len(content))


def images(
    trace: Trace, rng: Random, cuts: int, scratch: Path, *, among: Sequence[int] | None = None
) -> Iterator[Image]:
    """`cuts` images at random points of the trace (or of those `among` it), in order. Each is removed when
    the next is taken."""
    candidates = among or range(sum(1 for _ in trace.events()) + 1)
    points = sorted(rng.choice(candidates) for _ in range(cuts))
    disk, done, events = Disk(trace), 0, trace.events()
    following = next(events, None)
    path = scratch / "image"
    for point in points:
        while done < point:
            disk.follow(following)
            following = next(events, None)
            done += 1
        disk.write_image(path, rng, following if rng.random() < 0.5 else None)
        try:
            yield Image(path, point, list(disk.acknowledged))
        finally:
            shutil.rmtree(path)
