"""The workshop among writers under load, in a real node without listeners."""

import trio

from node.app import open_parts
from node.parts import now_s
from node.settings import load
from node.social import accounts, posts
from storage.directory import DataDirectory
from tests.node.nodes import SMALL, picture

PEOPLE = 60  # at once: above cluster.writers.ANSWER_FIRST_FROM answers come before their commit


async def once(data):
    yield data


async def test_a_job_that_is_told_of_before_its_commit_is_not_forgotten(tmp_path):
    settings = load(flags=[*SMALL, "storage.commit_delay_ms=1000"], environment={})
    with DataDirectory.open(tmp_path / "node", now=now_s(), shard_count=1) as directory:
        async with open_parts(directory, settings, trio.Event()) as parts:

            async def newcomer(home):
                """Who is in a partition of their own: nobody else's job wakes it."""
                sign_up = accounts.SignUp("ada", "", "no hash", b"", 0)
                return (await parts.service.do(home, sign_up, accounts.SignedUp)).result.user

            authors = [await newcomer(home) for home in range(PEOPLE)]
            received = await parts.intake.receive(once(picture(size=(8, 8))), 1 << 20)
            stored = await parts.intake.store(received, authors[0])

            async def create(home, author):
                command = posts.CreatePhoto(
                    author, "", "", (), "", stored.hash, received.type.mime, stored.size, stored.media
                )
                made = await parts.service.do(home, command, posts.Created)
                parts.workshop.wake(made.result.media[0])

            async with trio.open_nursery() as nursery:
                for home, author in enumerate(authors):
                    nursery.start_soon(create, home, author)
            with trio.fail_after(20):
                while parts.workshop.statistics().done < PEOPLE:
                    await trio.sleep(0.01)
