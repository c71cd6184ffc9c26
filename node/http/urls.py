"""URLs of media as answers carry them."""

from node.social.records import Avatar


class Urls:
    """`base` is the public URL of the service, or empty for root-relative URLs."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")

    def avatar(self, user: int, avatar: Avatar) -> str:
        """The avatar's thumbnail, which everybody may see."""
        return f"{self.base}/media/{avatar.jpeg.hex()}.jpeg"
