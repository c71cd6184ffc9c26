"""The intake: what comes in pieces of any size is written as it came, or leaves nothing."""

import threading

import pytest
import trio
import trio.testing
from blake3 import blake3

from node.media.intake import WRITE_BYTES, Intake, TooLarge
from storage.blobs import Blobs

MUCH = 64 * WRITE_BYTES


class Roomy:
    """The part of the service that receiving asks."""

    def require_room(self):
        pass


class SlowDisk(Blobs):
    """Blobs on a disk that takes a piece only when it is let."""

    def __init__(self, *folders):
        super().__init__(*folders)
        self.let = threading.Semaphore(0)

    def stage(self, bytes_max):
        staged = super().stage(bytes_max)
        write = staged.write

        def slowly(piece):
            assert self.let.acquire(timeout=10)
            return write(piece)

        staged.write = slowly
        return staged


@pytest.fixture
def folders(tmp_path):
    found = tuple(tmp_path / name for name in ("root", "staging", "quarantine"))
    for folder in found:
        folder.mkdir()
    return found


@pytest.fixture
def blobs(folders):
    return Blobs(*folders)


async def in_pieces(data, *sizes):
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        yield data[at : at + size]
        at, turn = at + size, turn + 1


@pytest.mark.parametrize("sizes", [(1000,), (WRITE_BYTES,), (3 * WRITE_BYTES + 1, 7), (7, 2 * WRITE_BYTES)])
async def test_what_comes_in_any_pieces_is_written_in_order(blobs, folders, sizes):
    data = b"\xff\xd8\xff\xe0" + bytes(n % 251 for n in range(1_000_000)) * 3
    received = await Intake(Roomy(), blobs, None).receive(in_pieces(data, *sizes), MUCH)
    assert (received.hash, received.size) == (blake3(data).digest(), len(data))
    assert received.type.mime == "image/jpeg"
    assert received.staged.path.read_bytes() == data


async def test_a_body_of_nothing_is_nothing(blobs):
    received = await Intake(Roomy(), blobs, None).receive(in_pieces(b"", 1), MUCH)
    assert (received.size, received.type) == (0, None)


async def test_what_the_client_did_wrong_is_told_as_it_was(blobs, folders):
    async def cut_short():
        yield b"x" * WRITE_BYTES
        yield b"x"
        raise ConnectionResetError("half of it")

    with pytest.raises(ConnectionResetError, match="half of it"):
        await Intake(Roomy(), blobs, None).receive(cut_short(), MUCH)
    assert not list(folders[1].iterdir()) and blobs.statistics().staged == 0


async def test_too_much_is_refused_while_more_would_come(blobs, folders):
    async def without_end():
        while True:
            yield b"x" * WRITE_BYTES
            await trio.lowlevel.checkpoint()

    with trio.fail_after(5), pytest.raises(TooLarge):
        await Intake(Roomy(), blobs, None).receive(without_end(), 3 * WRITE_BYTES)
    assert not list(folders[1].iterdir())


async def test_a_client_that_leaves_leaves_nothing(blobs, folders):
    async def waits_for_ever():
        yield b"x" * WRITE_BYTES
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Intake(Roomy(), blobs, None).receive, waits_for_ever(), MUCH)
        with trio.fail_after(5):
            while not any(path.stat().st_size for path in folders[1].iterdir()):
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert not list(folders[1].iterdir()) and blobs.statistics().staged == 0


async def test_one_piece_is_received_while_one_is_written_and_no_more(folders):
    blobs, taken = SlowDisk(*folders), 0

    async def counted():
        nonlocal taken
        for _ in range(5):
            taken += 1
            yield b"x" * WRITE_BYTES

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Intake(Roomy(), blobs, None).receive, counted(), MUCH)
        with trio.fail_after(5):
            while taken < 2:
                await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert taken == 2  # the first is with the disk, which has not let it; the second waits
        blobs.let.release(5)
    assert taken == 5
