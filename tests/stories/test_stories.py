"""Replays the stories beside this file, each on a node of its own."""

from pathlib import Path

import pytest

from tests.node.nodes import running
from tests.stories.players import Players

STORIES = sorted(Path(__file__).parent.glob("*.txt"))
CHEAP = ("accounts.argon2_memory_kib=64", "accounts.argon2_passes=1", "accounts.argon2_lanes=1")


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
async def test_a_story(story, tmp_path):
    async with running(tmp_path / "node", *CHEAP) as node:
        await Players(node).play(story.read_text("utf-8"))


def test_there_are_stories():
    assert STORIES
