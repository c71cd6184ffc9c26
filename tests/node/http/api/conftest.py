"""A node for each test, with cheap password hashes."""

import pytest

from tests.node.nodes import running

CHEAP = ("accounts.argon2_memory_kib=64", "accounts.argon2_passes=1", "accounts.argon2_lanes=1")


@pytest.fixture
async def node(tmp_path):
    async with running(tmp_path / "node", *CHEAP) as node:
        yield node
