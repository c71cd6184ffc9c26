"""A node for each test, with cheap password hashes."""

import pytest

from tests.node.http.api.conftest import CHEAP
from tests.node.nodes import running


@pytest.fixture
async def node(tmp_path):
    async with running(tmp_path / "node", *CHEAP) as node:
        yield node
