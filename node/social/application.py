"""The social state machine, put together: which modules make it up."""

from node.social import (
    accounts,
    blobs,
    blocks,
    comments,
    deletion,
    follows,
    jobs,
    likes,
    media,
    posts,
    retries,
    sessions,
    uploads,
)
from node.social.machine import SocialMachine

MODULES = (
    *(accounts, sessions, follows, blocks, deletion, retries),
    *(posts, uploads, media, jobs, blobs, likes, comments),
)


def social_machine() -> SocialMachine:
    return SocialMachine(MODULES)
