"""A member that lost a part of its data directory does not go on as the one that it was."""

import shutil

import pytest

from node.joining import CannotJoin
from storage.journal import JournalDamaged
from tests.node.nodes import running
from tests.node.together import ready


async def test_a_member_without_its_journal_does_not_start(tmp_path):
    """It would have forgotten its votes."""
    data = tmp_path / "node"
    async with running(data) as node:
        answer = await node.admin.post("/v1/admin/cluster/init", json={})
        assert answer.status_code == 200, answer.text
    async with running(data) as node:
        await ready(node)
    shutil.rmtree(data / "journal")
    with pytest.RaisesGroup(pytest.RaisesExc(JournalDamaged, match="voted"), flatten_subgroups=True):
        async with running(data):
            raise CannotJoin("it runs")
