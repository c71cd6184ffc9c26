"""The workshop among writers under load, in a real node without listeners."""

import errno
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from cluster.replicas import now_ms
from node.app import open_parts
from node.media.workshop import CLAIM_MS, Workshop
from node.parts import now_s
from node.settings import load
from node.social import accounts, jobs, posts
from node.social.keys import JobKey
from node.social.records import JOBS
from storage.directory import DataDirectory
from tests.node.nodes import SMALL, picture

PEOPLE = 60  # at once: above cluster.shard_writer.ANSWER_FIRST_FROM answers come before their commit


async def once(data):
    yield data


@asynccontextmanager
async def node(path, *flags):
    settings = load(flags=[*SMALL, *flags], environment={})
    with DataDirectory.open(path, now=now_s(), shard_count=1) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:
            yield parts


async def newcomer(parts, home):
    sign_up = accounts.SignUp("ada", "", "no hash", b"", 0)
    return (await parts.service.do(home, sign_up, accounts.SignedUp)).result.user


async def create(parts, home, author, stored):
    """Post the stored picture and wake the workshop at once; the medium."""
    command = posts.CreatePhoto(author, "", "", (), "", stored.hash, "image/jpeg", stored.size, stored.media)
    made = await parts.service.do(home, command, posts.Created)
    parts.workshop.wake(made.result.media[0])
    return made.result.media[0]


async def test_a_job_that_is_told_of_before_its_commit_is_not_forgotten(tmp_path):
    async with node(tmp_path / "node", "storage.commit_delay_ms=1000") as parts:
        # Each in a partition of their own: nobody else's job wakes it.
        authors = [await newcomer(parts, home) for home in range(PEOPLE)]
        received = await parts.intake.receive(once(picture(size=(8, 8))), 1 << 20)
        stored = await parts.intake.store(received, authors[0])
        async with trio.open_nursery() as nursery:
            for home, author in enumerate(authors):
                nursery.start_soon(create, parts, home, author, stored)
        with trio.fail_after(20):
            while parts.workshop.statistics().done < PEOPLE:
                await trio.sleep(0.01)


def naming_wrong_hashes(process):
    async def lying(source, into):
        processed = await process(source, into)
        wrong = tuple(msgspec.structs.replace(file, digest=bytes(32)) for file in processed.variants)
        return msgspec.structs.replace(processed, variants=wrong)

    return lying


def not_starting(process):
    async def failing(source, into):
        raise OSError(errno.EMFILE, "too many open files")

    return failing


@pytest.mark.parametrize("spoiled, words", [(naming_wrong_hashes, "hash"), (not_starting, "open files")])
async def test_a_worker_that_cannot_be_trusted_or_started_costs_its_tries(
    tmp_path, monkeypatch, spoiled, words
):
    async with node(tmp_path / "node", "media.job_backoff_s=0.01") as parts:
        ada = await newcomer(parts, 1)
        received = await parts.intake.receive(once(picture()), 1 << 20)
        stored = await parts.intake.store(received, ada)
        monkeypatch.setattr(parts.pool, "process", spoiled(parts.pool.process))
        medium = await create(parts, 1, ada, stored)
        with trio.fail_after(20):
            while not (letter := failed(parts, medium)):
                await trio.sleep(0.01)
        assert letter.attempts == jobs.TRIES_MAX and words in letter.reason


def failed(parts, medium):
    with parts.service.read() as rows:
        return jobs.failed_job(rows, 1, medium)


def job_of(parts, medium):
    with parts.service.read() as rows:
        return JOBS.get(rows, JobKey(medium))


async def test_the_claim_of_a_node_that_cannot_be_reached_is_released_and_costs_no_try(tmp_path, monkeypatch):
    with monkeypatch.context() as asleep:
        asleep.setattr(Workshop, "run", lambda self, partitions: trio.sleep_forever())
        async with node(tmp_path / "node") as parts:
            ada = await newcomer(parts, 1)
            received = await parts.intake.receive(once(picture()), 1 << 20)
            medium = await create(parts, 1, ada, await parts.intake.store(received, ada))
            claim = jobs.Claim(medium, 1, "ab" * 16 + "/7", now_ms() + CLAIM_MS)
            await parts.service.do(1, claim, jobs.Claimed)
    seen = []
    async with node(tmp_path / "node") as parts:
        process = parts.pool.process

        async def looked_at(source, into):
            seen.append(job_of(parts, medium))
            return await process(source, into)

        monkeypatch.setattr(parts.pool, "process", looked_at)
        with trio.fail_after(20):
            while not parts.workshop.statistics().done:
                await trio.sleep(0.01)
    assert [(job.attempt, job.free) for job in seen] == [(2, 1)]


async def test_what_is_led_elsewhere_is_let_go_of_and_taken_up_again(tmp_path, monkeypatch):
    async with node(tmp_path / "node") as parts:
        ada = await newcomer(parts, 1)
        received = await parts.intake.receive(once(picture()), 1 << 20)
        stored = await parts.intake.store(received, ada)
        began = trio.Event()

        async def never(source, into):
            began.set()
            await trio.sleep_forever()

        with monkeypatch.context() as stuck:
            stuck.setattr(parts.pool, "process", never)
            medium = await create(parts, 1, ada, stored)
            with trio.fail_after(10):
                await began.wait()
            stuck.setattr(parts.workshop, "_leads", lambda partition: False)
            parts.workshop.standing_changed(1, parts.replicas.standing(1))
            with trio.fail_after(10):
                while parts.workshop.statistics().running:
                    await trio.sleep(0.01)
            job = job_of(parts, medium)
            assert (job.worker, job.attempt, job.free) == ("", 1, 1)  # given back, at no cost
            parts.workshop.wake(medium)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not parts.workshop.statistics().running
        parts.workshop.standing_changed(1, parts.replicas.standing(1))
        with trio.fail_after(20):
            while not parts.workshop.statistics().done:
                await trio.sleep(0.01)
