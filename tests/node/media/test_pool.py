"""The pool with real worker processes: what hurts a worker is a failed try and nothing more."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from PIL import Image

import node.media.pool as pool_module
from node.media.pool import PoolFull, PoolSettings, WorkerDied, open_pool
from node.media.recipes import ImageRefused, variant_paths
from tests.node.media.pictures import FORMATS, MIMES, encode, photo, png_bomb, progressive_with_scans, sample

WAIT_S = 20  # for what happens in milliseconds


async def until(condition):
    """Wait until `condition()` holds; only for what another process does."""
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.sleep(0.002)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def original(tmp_path):
    """original(data) -> the path of a file with these bytes."""

    def write(data, name="original"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def slow(original):
    """An image within all limits that takes a second or so of CPU."""
    return original(progressive_with_scans(Image.new("L", (5_000, 5_000), 128), 80), "slow")


async def test_every_format_through_one_worker(original, tmp_path):
    async with open_pool(PoolSettings(workers=1)) as pool:
        for name in FORMATS:
            into = tmp_path / name
            processed = await pool.process(original(sample(name)), into)
            assert processed.type == MIMES[name]
            assert set(into.iterdir()) == set(variant_paths(into))
        figures = pool.statistics()
        assert (figures.started, figures.processed, figures.idle, figures.busy) == (1, 6, 1, 0)
        assert figures.cpu_s > 0
    await until(lambda: gone(figures.worker_pids[0]))


async def test_a_refusal_keeps_the_worker_and_leaves_nothing(original, tmp_path):
    async with open_pool(PoolSettings(workers=1)) as pool:
        for data in (b"<html></html>", b"", sample("png")[:500], png_bomb(10_000, 9_000)):
            with pytest.raises(ImageRefused):
                await pool.process(original(data, "photo.jpg"), tmp_path / "out")
            assert not (tmp_path / "out").exists()
        figures = pool.statistics()
        assert (figures.started, figures.refused, figures.died) == (1, 4, 0)
        await pool.process(original(sample("jpeg")), tmp_path / "out")


async def test_no_worker_runs_before_there_is_work_and_idle_ones_end(original, tmp_path):
    async with open_pool(PoolSettings(workers=1, idle_s=0.05)) as pool:
        assert pool.statistics().worker_pids == ()
        await pool.process(original(sample("jpeg")), tmp_path / "out")
        (pid,) = pool.statistics().worker_pids
        await until(lambda: gone(pid) and pool.statistics().worker_pids == ())
        await pool.process(original(sample("jpeg")), tmp_path / "out")
        assert pool.statistics().started == 2


async def busy_pid(pool):
    await until(lambda: pool.statistics().busy == 1)
    return pool.statistics().worker_pids[0]


async def test_a_worker_killed_in_its_job_is_a_failed_try_and_the_next_one_works(slow, original, tmp_path):
    into = tmp_path / "out"

    async with open_pool(PoolSettings(workers=1)) as pool, trio.open_nursery() as nursery:

        async def kill():
            pid = await busy_pid(pool)
            await until(lambda: "/slow" in "".join(open_files(pid)) or cpu_ticks(pid) > 15)
            os.kill(pid, signal.SIGKILL)

        nursery.start_soon(kill)
        with pytest.raises(WorkerDied, match="killed by signal 9"):
            await pool.process(slow, into)
        assert not into.exists()
        await pool.process(original(sample("jpeg")), into)
        figures = pool.statistics()
        assert (figures.died, figures.processed, figures.started) == (1, 1, 2)


def open_files(pid):
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found.append(os.readlink(path))
    return found


def cpu_ticks(pid):
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))


async def test_a_worker_that_died_while_idle_is_replaced(original, tmp_path):
    async with open_pool(PoolSettings(workers=1)) as pool:
        await pool.process(original(sample("jpeg")), tmp_path / "out")
        (pid,) = pool.statistics().worker_pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: gone(pid))
        await pool.process(original(sample("jpeg")), tmp_path / "out")
        assert (pool.statistics().started, pool.statistics().died) == (2, 0)


async def test_the_limit_on_cpu_ends_the_worker(original, tmp_path):
    costly = original(progressive_with_scans(Image.new("L", (7_000, 7_000), 128), 95), "costly")
    async with open_pool(PoolSettings(workers=1, cpu_s=1)) as pool:
        with pytest.raises(WorkerDied, match="used more than 1 s of CPU"):
            await pool.process(costly, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        await pool.process(original(sample("jpeg")), tmp_path / "out")


async def test_the_limit_on_cpu_is_per_job(original, tmp_path):
    """One worker outlives its allowance many times over when each job stays within it."""
    picture = original(encode(photo(2_500, 2_000), "webp", method=0))
    async with open_pool(PoolSettings(workers=1, cpu_s=1)) as pool:
        while pool.statistics().cpu_s < 2.5:
            await pool.process(picture, tmp_path / "out")
        assert pool.statistics().started == 1


async def test_the_limit_on_memory_ends_the_worker(original, tmp_path):
    large = original(png_bomb(10_000, 4_900), "large")  # 49 million bytes as grey
    async with open_pool(PoolSettings(workers=1, memory_bytes=110 * 2**20)) as pool:
        with pytest.raises(WorkerDied, match="needed more than 110 MiB of memory"):
            await pool.process(large, tmp_path / "out")
        await pool.process(original(sample("jpeg")), tmp_path / "out")
    async with open_pool(PoolSettings(workers=1)) as pool:
        assert (await pool.process(large, tmp_path / "out")).width == 10_000


async def test_a_variant_larger_than_the_limit_on_files_is_a_failed_try(original, tmp_path):
    async with open_pool(PoolSettings(workers=1, file_bytes=4_000)) as pool:
        with pytest.raises(WorkerDied, match="File too large"):
            await pool.process(original(sample("jpeg", 1300, 900)), tmp_path / "out")
        assert not (tmp_path / "out").exists()


async def test_the_deadline_ends_a_worker_that_stands_still(slow, tmp_path):
    async with open_pool(PoolSettings(workers=1, deadline_s=0.3)) as pool, trio.open_nursery() as nursery:

        async def stop():
            os.kill(await busy_pid(pool), signal.SIGSTOP)

        nursery.start_soon(stop)
        with pytest.raises(WorkerDied, match=r"no answer within 0\.3 s"):
            await pool.process(slow, tmp_path / "out")
        assert not (tmp_path / "out").exists()


async def test_a_cancelled_call_ends_its_worker_and_leaves_nothing(slow, tmp_path):
    into = tmp_path / "out"
    into.mkdir()
    (into / "not ours").write_bytes(b"stays")
    async with open_pool(PoolSettings(workers=1)) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.process, slow, into)
            pid = await busy_pid(pool)
            await until(lambda: cpu_ticks(pid) > 15)
            nursery.cancel_scope.cancel()
        assert gone(pid)
        assert [path.name for path in into.iterdir()] == ["not ours"]
        assert (pool.statistics().cancelled, pool.statistics().busy) == (1, 0)


async def test_a_cancelled_wait_costs_nothing(slow, original, tmp_path):
    async with open_pool(PoolSettings(workers=1)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.process, slow, tmp_path / "first")
        await busy_pid(pool)
        with trio.move_on_after(0.01):
            await pool.process(original(sample("jpeg")), tmp_path / "second")
        assert not (tmp_path / "second").exists()
        assert (pool.statistics().waiting, pool.statistics().cancelled) == (0, 0)
        nursery.cancel_scope.cancel()


async def test_the_queue_is_bounded_and_no_more_workers_run_than_allowed(original, tmp_path):
    picture = original(sample("jpeg"))
    refused = []
    async with open_pool(PoolSettings(workers=2, queue_max=3)) as pool:

        async def call(index):
            try:
                await pool.process(picture, tmp_path / str(index))
            except PoolFull:
                refused.append(index)
            assert pool.statistics().busy + pool.statistics().idle <= 2
            assert pool.statistics().waiting <= 3

        async with trio.open_nursery() as nursery:
            for index in range(12):
                nursery.start_soon(call, index)
        figures = pool.statistics()
        assert len(refused) == 7
        assert (figures.processed, figures.started, figures.waiting) == (5, 2, 0)


async def test_a_worker_is_replaced_after_its_share_of_jobs(original, tmp_path):
    async with open_pool(PoolSettings(workers=1, jobs_per_worker=2)) as pool:
        for _ in range(5):
            await pool.process(original(sample("jpeg")), tmp_path / "out")
        assert pool.statistics().started == 3


async def test_a_missing_original_is_a_failed_try_that_says_so(tmp_path):
    async with open_pool(PoolSettings(workers=1)) as pool:
        with pytest.raises(WorkerDied, match=r"status 1: FileNotFoundError.*nowhere"):
            await pool.process(tmp_path / "nowhere", tmp_path / "out")
        assert not (tmp_path / "out").exists()


GARBAGE = {
    "answered with a frame": "os.write(1, b'HTTP/1.1 200 OK')",
    "what is no answer": "os.write(1, (8).to_bytes(4, 'big') + b'\\x81\\xa4type\\xa1x')",
    "closed its output": "os.close(1); os.read(0, 1 << 20); time.sleep(60)",
    "status 7": "sys.exit(7)",
}


@pytest.mark.parametrize("reason", GARBAGE)
async def test_a_worker_that_talks_garbage_is_a_failed_try(reason, original, tmp_path, monkeypatch):
    """Another program stands in the worker's place: this is what one taken over by an image could do."""
    packages = tmp_path / "packages"
    (packages / "node" / "media").mkdir(parents=True)
    (packages / "node" / "__init__.py").touch()
    (packages / "node" / "media" / "__init__.py").touch()
    program = f"import os, sys, time\n{GARBAGE[reason]}\nos.read(0, 1 << 20)\n"
    (packages / "node" / "media" / "worker.py").write_text(program)
    monkeypatch.setattr(pool_module, "PACKAGES", packages)
    monkeypatch.setattr(pool_module, "GRACE_S", 0.05)
    async with open_pool(PoolSettings(workers=1)) as pool:
        with pytest.raises(WorkerDied, match=reason):
            await pool.process(original(sample("jpeg")), tmp_path / "out")
        assert pool.statistics().died == 1
        assert pool.statistics().worker_pids == ()


async def test_an_answer_about_other_files_is_not_believed(original, tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    (packages / "node").mkdir(parents=True)
    real = Path(pool_module.__file__).parent
    (packages / "node" / "__init__.py").touch()
    (packages / "node" / "media").symlink_to(real)
    (packages / "sitecustomize.py").write_text(
        "import node.media.recipes as r\nr.EXTENSIONS['jpeg'] = 'somewhere-else'\n"
    )
    monkeypatch.setattr(pool_module, "PACKAGES", packages)
    async with open_pool(PoolSettings(workers=1)) as pool:
        with pytest.raises(WorkerDied, match="other files"):
            await pool.process(original(sample("jpeg")), tmp_path / "out")


async def test_a_worker_is_small_confined_and_knows_nothing_of_the_node(original, tmp_path, monkeypatch):
    monkeypatch.setenv("HELIOGRAPH_SECRET", "not for workers")
    settings = PoolSettings(workers=1)
    with open(tmp_path / "held", "wb"):
        async with open_pool(settings) as pool:
            await pool.process(original(encode(photo(4_000, 3_000), "jpeg")), tmp_path / "out")
            (pid,) = pool.statistics().worker_pids
            process = Path(f"/proc/{pid}")
            assert b"SECRET" not in (process / "environ").read_bytes()
            assert not any("held" in name for name in open_files(pid))
            limits = {line[:25].strip(): line[25:].split()[:2] for line in (process / "limits").open()}
            assert limits["Max address space"] == [str(settings.memory_bytes)] * 2
            assert limits["Max core file size"] == ["0", "0"]
            assert limits["Max open files"] == [str(settings.open_files)] * 2
            assert limits["Max file size"] == [str(settings.file_bytes)] * 2
            assert 0 < int(limits["Max cpu time"][0]) <= settings.cpu_s + 2
            assert (process / "oom_score_adj").read_text().strip() == "1000"
            assert int((process / "stat").read_text().rsplit(")", 1)[1].split()[16]) >= settings.nice
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            assert int(status["VmRSS"].split()[0]) < 60_000  # kB, after twelve megapixels
            assert int(status["Threads"]) == 1
            assert int(status["NoNewPrivs"]) == 1


PARENT = """
import pathlib, sys, trio
from node.media.pool import PoolSettings, open_pool

async def main():
    async with open_pool(PoolSettings(workers=1)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.process, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
        while not pool.statistics().worker_pids:
            await trio.sleep(0.001)
        print(pool.statistics().worker_pids[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("moment", ["in its job", "idle"])
async def test_a_worker_does_not_outlive_its_node(moment, slow, original, tmp_path):
    source = slow if moment == "in its job" else original(sample("jpeg"))
    out = tmp_path / "out"
    command = [sys.executable, "-c", PARENT, str(source), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=pool_module.PACKAGES) as parent:
        pid = int(parent.stdout.readline())
        if moment == "idle":
            await until(lambda: all(path.exists() for path in variant_paths(out)))
        else:
            await until(lambda: cpu_ticks(pid) > 15)
        parent.kill()
    await until(lambda: gone(pid))


async def test_workers_outlive_the_thread_pool(original, tmp_path):
    """The kernel's parent-death signal follows the thread that started a worker: it must be the loop's."""
    async with open_pool(PoolSettings(workers=1)) as pool:
        await pool.process(original(sample("jpeg")), tmp_path / "out")
        (pid,) = pool.statistics().worker_pids
        assert str(os.getpid()) == Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
        assert pid in {
            int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        }


async def test_a_closed_pool_takes_nothing(original, tmp_path):
    async with open_pool(PoolSettings(workers=1)) as pool:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await pool.process(original(sample("jpeg")), tmp_path / "out")
