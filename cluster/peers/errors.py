"""How asking another node can end without an answer; pure, so that cores can decide by it."""

from cluster.peers.messages import Failed


class PeerUnreachable(Exception):
    """Nothing was sent, and nothing will be: the request certainly has no effect there."""


class PeerSilent(Exception):
    """It was sent, and no answer came before the deadline, or the link broke: it may have been done."""


class PeerRefused(Exception):
    """The peer answered `Failed`. `leader`: whom to ask instead, empty if that is not known. A handler that
    raises it has its caller told so."""

    def __init__(self, code: str, detail: str, leader: bytes = b"") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.leader = leader

    @classmethod
    def of(cls, failed: Failed) -> "PeerRefused":
        return cls(failed.code, failed.detail, failed.leader)
