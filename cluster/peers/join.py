"""The joiner's side: one question at a time to a node of the cluster, without a certificate.

First anybody's server may be asked for the CA's certificate: nothing secret is said, and nothing is believed
but a certificate whose fingerprint is that of the invitation. The same question is then put over a connection
whose other end has proved with TLS that this CA signed its key, and there the answer is believed
(`described`); only over such a one the secret is told (`join`).
"""

import ssl
from typing import Final

import msgspec
import trio

from cluster.peers import certificates, frames, hello, messages
from cluster.peers.certificates import BadCertificate
from cluster.peers.dialling import CONNECT_S, Transport
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.handshake import LinkBroken, Refused, Wire, open_wire
from cluster.peers.hello import ID_BYTES, Hello
from cluster.peers.invitations import Invitation, is_authority
from cluster.peers.links import introduction, tcp
from cluster.peers.messages import Describe, Described, Failed, Join, Joined

DESCRIBE_S: Final = 5.0
JOIN_S: Final = 25.0  # the meta group's majority has to commit it


class NotInvited(Exception):
    """The token, or who answered, is not what it should be: to be told to whoever typed it; trying again
    does not help."""


async def described(invitation: Invitation, *, transport: Transport = tcp) -> tuple[str, Described]:
    """The first address that answers, and what it says of the cluster. Raises NotInvited where nodes answer,
    but none of the cluster that invited, and PeerUnreachable or PeerSilent where none does."""
    last: Exception | None = None
    for address in invitation.addresses:
        try:
            return address, await _described_at(address, invitation, transport)
        except (NotInvited, PeerUnreachable, PeerSilent, PeerRefused) as error:
            last = error if not isinstance(last, NotInvited) else last
    assert last is not None  # an invitation has an address
    raise last


async def _described_at(address: str, invitation: Invitation, transport: Transport) -> Described:
    anybody = certificates.joiner_context(None)
    said = await _ask(address, anybody, b"", Describe(), DESCRIBE_S, transport)
    first = _of_the_authority(address, said, invitation)
    proved = certificates.joiner_context(first.ca)
    said = await _ask(address, proved, first.cluster, Describe(), DESCRIBE_S, transport)
    return _of_the_authority(address, said, invitation)


async def join(
    invitation: Invitation,
    address: str,
    described: Described,
    request: Join,
    *,
    transport: Transport = tcp,
) -> Joined:
    """`address` and `described` as `described()` gave them. Raises NotInvited; PeerRefused (an invitation
    that was used, has expired or is not known); PeerUnreachable; PeerSilent: then the node may have been
    admitted, and asks again with the same request."""
    _of_the_authority(address, described, invitation)
    context = certificates.joiner_context(described.ca)
    answer = await _ask(address, context, described.cluster, request, JOIN_S, transport)
    if not isinstance(answer, Joined):
        raise PeerSilent(f"{address}: answered a Join with {type(answer).__name__}")
    return answer


def _of_the_authority(address: str, answer: object, invitation: Invitation) -> Described:
    if not isinstance(answer, Described):
        raise NotInvited(f"{address}: not a node of this program: answered with {type(answer).__name__}")
    try:
        fingerprint = certificates.fingerprint(answer.ca)
    except BadCertificate as error:
        raise NotInvited(f"{address}: {error}") from None
    if not is_authority(invitation, fingerprint):
        raise NotInvited(
            f"{address}: the node there belongs to a cluster with the CA {fingerprint.hex()[:16]}…, "
            f"the invitation is of {invitation.authority.hex()[:16]}…"
        )
    return answer


async def _ask(
    address: str,
    context: ssl.SSLContext,
    cluster: bytes,
    request: messages.Request,
    deadline_s: float,
    transport: Transport,
) -> object:
    """One question over a connection of its own."""
    wire = await _opened(
        address, context, introduction(cluster, b"", 0, bytes(hello.START_BYTES), 0), transport
    )
    try:
        if cluster and (wire.name is None or wire.name.cluster != cluster or len(cluster) != ID_BYTES):
            raise PeerUnreachable(f"{address}: its certificate is not that of a node of {cluster.hex()}")
        with trio.fail_after(deadline_s):
            deadline_ms = round(deadline_s * 1000)
            await wire.send(frames.encode(frames.REQUEST, messages.encode(request), 1, deadline_ms))
            received: list[frames.Frame] = []
            while not received:
                received = await wire.receive()
        return _answer(received[0])
    except trio.TooSlowError:
        raise PeerSilent(f"{address}: no answer in {deadline_s:g} s") from None
    except LinkBroken as broken:
        raise PeerSilent(f"{address}: {broken.detail}") from None
    except msgspec.DecodeError as error:
        raise PeerSilent(f"{address}: its answer cannot be read: {error}") from None
    finally:
        await wire.aclose()


def _answer(frame: frames.Frame) -> object:
    if frame.kind == frames.REFUSAL:
        refusal = hello.decode_refusal(frame.body)
        raise PeerRefused(refusal.code, refusal.detail)
    answer: object = messages.decode_response(frame.body)
    if isinstance(answer, Failed):
        raise PeerRefused.of(answer)
    return answer


async def _opened(address: str, context: ssl.SSLContext, mine: Hello, transport: Transport) -> Wire:
    try:
        with trio.fail_after(CONNECT_S):
            stream = await transport(address)
        return await open_wire(stream, context, mine, None, None)
    except trio.TooSlowError:
        raise PeerUnreachable(f"{address}: no connection in {CONNECT_S:g} s") from None
    except (OSError, LinkBroken) as error:
        raise PeerUnreachable(f"{address}: {error}") from None
    except Refused as refused:
        raise PeerRefused(refused.refusal.code, refused.refusal.detail) from None
