"""The joiner's side: no secret is told to anybody but a node of the cluster that invited."""

import msgspec
import pytest
import trio

from cluster.peers import certificates, join
from cluster.peers.errors import PeerRefused, PeerSilent, PeerUnreachable
from cluster.peers.invitations import Invitation
from cluster.peers.join import NotInvited
from cluster.peers.links import tcp
from cluster.peers.messages import Describe, Described, Failed, Join, Joined
from tests.cluster.peers.cluster import (
    CLUSTER,
    OTHER_CLUSTER,
    A,
    B,
    C,
    authority,
    credentials,
    make_node,
    running,
)

SECRET = b"s" * 32
REQUEST = Join(b"i" * 16, SECRET, C, b"csr", "127.0.0.1:1", "zone", 1)
JOINED = Joined(b"chain", b"cluster secret", ((A, "127.0.0.1:2"),))


def serving(node, ca, cluster=CLUSTER):
    """Let `node` describe a cluster with this CA; gives the list of the Joins that it is asked."""
    asked = []

    async def describe(sender, request):
        return Described(cluster, 256, 1, ca)

    async def admit(sender, request):
        assert sender == b""
        asked.append(request)
        return JOINED

    node.links.serve(Describe, describe)
    node.links.serve(Join, admit)
    return asked


def invited(*addresses, ca=None):
    return Invitation(
        certificates.fingerprint((ca or authority()).certificate), addresses, b"i" * 16, SECRET, 2**41
    )


async def test_a_joiner_asks_who_it_is_and_then_tells_the_secret(tmp_path):
    b = make_node(tmp_path, B)
    asked = serving(b, authority().certificate)
    async with running(b):
        invitation = invited("127.0.0.1:1", b.address)  # nobody listens at the first
        address, described = await join.described(invitation)
        assert address == b.address and described.cluster == CLUSTER
        assert await join.join(invitation, address, described, REQUEST) == JOINED
    assert asked == [REQUEST]


async def test_another_cluster_at_the_address_is_told_nothing(tmp_path):
    other = authority(OTHER_CLUSTER)
    b = make_node(tmp_path, B, cluster=OTHER_CLUSTER)
    asked = serving(b, other.certificate, OTHER_CLUSTER)
    async with running(b):
        with pytest.raises(NotInvited, match="the invitation is of"):
            await join.described(invited(b.address))
        described = Described(OTHER_CLUSTER, 256, 1, other.certificate)
        with pytest.raises(NotInvited):
            await join.join(invited(b.address), b.address, described, REQUEST)
    assert not asked


async def test_who_shows_the_right_certificate_of_the_ca_but_has_not_its_signature_is_told_nothing(tmp_path):
    """Everybody may know the CA's certificate; who has no key that it signed cannot finish TLS."""
    b = make_node(tmp_path, B, given=credentials(tmp_path, B, ca=authority(CLUSTER, 1)))
    asked = serving(b, authority().certificate)
    described = Described(CLUSTER, 256, 1, authority().certificate)
    async with running(b):
        invitation = invited(b.address)
        with pytest.raises(PeerUnreachable, match="foreign_certificate"):
            await join.described(invitation)
        with pytest.raises(PeerUnreachable, match="foreign_certificate"):
            await join.join(invitation, b.address, described, REQUEST)
    assert not asked


async def test_what_is_believed_was_said_by_a_node_of_the_cluster(tmp_path):
    """Who sits in between can answer the first question, with the right CA and anything beside it."""
    b, liar = make_node(tmp_path, B), make_node(tmp_path, C)
    serving(b, authority().certificate)

    async def lies(sender, request):
        return Described(CLUSTER, 3, 9, authority().certificate)

    liar.links.serve(Describe, lies)
    async with running(b, liar):
        asked = []

        async def between(address):
            asked.append(address)
            return await tcp(liar.address if len(asked) == 1 else address)

        _, described = await join.described(invited(b.address), transport=between)
        assert len(asked) == 2 and described == Described(CLUSTER, 256, 1, authority().certificate)


async def test_a_node_of_the_ca_that_names_another_cluster_is_told_nothing(tmp_path):
    """Its certificate is of one cluster, and its words of another."""
    b = make_node(tmp_path, B, cluster=OTHER_CLUSTER, given=credentials(tmp_path, B))
    asked = serving(b, authority().certificate, OTHER_CLUSTER)
    described = Described(OTHER_CLUSTER, 256, 1, authority().certificate)
    async with running(b):
        invitation = invited(b.address)
        with pytest.raises(PeerUnreachable, match="certificate is not that of a node"):
            await join.described(invitation)
        with pytest.raises(PeerUnreachable, match="certificate is not that of a node"):
            await join.join(invitation, b.address, described, REQUEST)
    assert not asked


@pytest.mark.parametrize("ca", [b"", b"no certificate"])
async def test_what_is_no_ca_is_told_so(tmp_path, ca):
    b = make_node(tmp_path, B)
    serving(b, ca)
    async with running(b):
        with pytest.raises(NotInvited, match="not a certificate"):
            await join.described(invited(b.address))


async def test_a_refused_join_says_why(tmp_path):
    b = make_node(tmp_path, B)
    serving(b, authority().certificate)

    async def refuses(sender, request):
        return Failed("invitation_used", "by node c")

    b.links.serve(Join, refuses)
    async with running(b):
        invitation = invited(b.address)
        address, described = await join.described(invitation)
        with pytest.raises(PeerRefused, match="invitation_used: by node c"):
            await join.join(invitation, address, described, REQUEST)


async def test_where_nobody_answers_the_last_error_is_told(tmp_path):
    with pytest.raises(PeerUnreachable, match=r"127\.0\.0\.1:1: .*refused"):
        await join.described(invited("127.0.0.1:1"))
    with pytest.raises(PeerUnreachable, match="no host:port"):
        await join.described(invited("nowhere"))


async def test_who_listens_and_says_nothing_does_not_hold_the_joiner(autojump_clock):
    async def mute(address):
        ours, _theirs = trio.testing.memory_stream_pair()
        return ours

    with pytest.raises(PeerUnreachable, match="no TLS within 5 s"):
        await join.described(invited("mute:1"), transport=mute)


async def test_a_node_that_never_answers_the_join_leaves_it_open(tmp_path, monkeypatch):
    monkeypatch.setattr(join, "JOIN_S", 0.05)
    b = make_node(tmp_path, B)
    serving(b, authority().certificate)
    b.links.serve(Join, lambda sender, request: trio.sleep_forever())
    async with running(b):
        invitation = invited(b.address)
        address, described = await join.described(invitation)
        with pytest.raises(PeerSilent):
            await join.join(invitation, address, described, REQUEST)


def test_secrets_are_in_no_repr():
    for said in (REQUEST, JOINED, msgspec.structs.replace(REQUEST, secret=b"other secret")):
        assert "ssss" not in repr(said) and "secret" not in repr(said)
