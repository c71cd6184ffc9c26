"""The load client and the pictures it sends: what they do, not how fast."""

import mmap
import os
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import cycle

import pytest
import trio
from PIL import Image

from bench.load import Load, request, run
from bench.measure import percentile, resident_bytes, written_bytes
from bench.open_load import CYCLE, multipart, path_of
from bench.pictures import photograph_of, unlike


async def answering(port_of, status, bodies):
    """A server of as many answers as `bodies` has, over and over; it keeps what it was asked."""
    asked = set()

    async def connection(stream):
        with suppress(trio.BrokenResourceError):  # the client goes in the middle of its last answers
            for body in cycle(bodies):
                data = b""
                while b"\r\n\r\n" not in data:
                    more = await stream.receive_some(65536)
                    if not more:
                        return
                    data += more
                asked.add(data.split(b" ")[1])
                head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
                await stream.send_all(head + body)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, connection, 0, host="127.0.0.1"))
        load = port_of(listeners[0].socket.getsockname()[1])
        answered = await trio.to_thread.run_sync(run, load)
        nursery.cancel_scope.cancel()
    return answered, asked


async def test_the_closed_loop_counts_answers_and_their_bytes():
    requests = [request("GET", f"/{number}") for number in range(5)]
    answered, asked = await answering(
        lambda port: Load(port, requests, connections=2, seconds=0.3, warm_s=0.0), 200, [b"x" * 100_000, b""]
    )
    assert asked == {b"/0", b"/1", b"/2", b"/3", b"/4"}
    assert set(answered.require().statuses) == {200}
    assert 0 < answered.body_bytes <= 100_000
    assert answered.latencies_ms == sorted(answered.latencies_ms)


async def test_other_statuses_make_a_rate_worthless():
    answered, _ = await answering(
        lambda port: Load(port, [request("GET", "/")], connections=1, seconds=0.1, warm_s=0.0), 404, [b"no"]
    )
    with pytest.raises(RuntimeError, match="404"):
        answered.require()


def test_a_request_with_a_body_names_its_length():
    assert request("POST", "/x", [("a", "b")], b"body") == (
        b"POST /x HTTP/1.1\r\nhost: 127.0.0.1\r\na: b\r\ncontent-length: 4\r\n\r\nbody"
    )


def test_the_mix_is_a_hundred_reads_five_likes_and_a_photo():
    counts = {kind: CYCLE.count(kind) for kind in set(CYCLE)}
    assert counts == {"feed": 90, "variant": 10, "like": 5, "photo": 1}
    # Taken with a stride, every place of the cycle comes once before any comes again.
    assert len({number * 37 % len(CYCLE) for number in range(len(CYCLE))}) == len(CYCLE)


def test_the_form_holds_the_photo_unchanged():
    photo = bytes(range(256))
    form = multipart(photo, "a caption")
    assert form.count(photo) == 1
    assert b'name="caption"\r\n\r\na caption\r\n' in form


@pytest.mark.parametrize("url", ["/media/a.webp?x=1", "http://127.0.0.1:8000/media/a.webp?x=1"])
def test_paths_of_urls(url):
    assert path_of(url) == "/media/a.webp?x=1"


@pytest.mark.parametrize("size", [60_000, 60_001, 200_000])
def test_a_photograph_has_its_size_to_the_byte_and_can_be_seen(size):
    photo = photograph_of(size, (320, 240))
    other = unlike(photo)
    assert len(photo) == len(other) == size
    assert photo != other
    for data in (photo, other):
        with Image.open(BytesIO(data)) as picture:
            picture.load()
            assert picture.size == (320, 240)


def test_percentiles_are_values_that_were_there():
    assert percentile([], 99) == 0
    assert percentile([5.0], 50) == 5.0
    values = [float(number) for number in range(100)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 99)


def test_the_kernel_counts_what_is_written(tmp_path):
    before = written_bytes()
    (tmp_path / "file").write_bytes(bytes(100_000))
    assert written_bytes() - before >= 100_000


def test_resident_memory_leaves_out_what_is_mapped_from_a_folder(tmp_path):
    size = 32 << 20  # far more than looking itself takes
    (tmp_path / "mapped").write_bytes(bytes(size))
    with (
        (tmp_path / "mapped").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[::4096].count(0) == size // 4096  # every page is resident now
        resident_bytes(os.getpid(), tmp_path)  # what looking takes is resident from now on
        everything = resident_bytes(os.getpid(), tmp_path / "elsewhere")
        apart = resident_bytes(os.getpid(), tmp_path)
    assert everything - apart > size / 2
