"""What a username and the texts of a profile may be; checked where they are written, in the machine."""

import re
from typing import Final

from cluster.commands import Refused

USERNAME_MAX: Final = 30  # characters
DISPLAY_NAME_MAX: Final = 60
BIO_MAX: Final = 300

_USERNAME: Final = re.compile(rf"[a-zA-Z0-9_.]{{1,{USERNAME_MAX}}}", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_IN_LINES: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def folded(username: str) -> str:
    """The form under which a name is unique; only ASCII letters can occur in one."""
    return username.lower()


def check_username(username: str) -> None:
    """Raises Refused `invalid_field`."""
    if not _USERNAME.fullmatch(username):
        raise Refused(
            "invalid_field", f"username: want 1 to {USERNAME_MAX} of the letters a-z, digits, '_' and '.'"
        )


def check_display_name(text: str) -> None:
    """Raises Refused `invalid_field`: one line, no control characters."""
    if len(text) > DISPLAY_NAME_MAX or _CONTROL.search(text):
        raise Refused("invalid_field", f"display_name: want one line, at most {DISPLAY_NAME_MAX} characters")


def check_bio(text: str) -> None:
    """Raises Refused `invalid_field`: lines may end in a line feed, no other control characters."""
    if len(text) > BIO_MAX or _CONTROL_IN_LINES.search(text):
        raise Refused("invalid_field", f"bio: want at most {BIO_MAX} characters, no control characters")
