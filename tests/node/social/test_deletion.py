"""The end of an account: nothing of it is left, on any side, whatever was under way."""

import pytest

from cluster.partition import ROWS_PER_APPLY_MAX
from node.social import comments, likes
from node.social.accounts import SignedUp, SignUp, UpdateProfile
from node.social.blocks import BlockUser
from node.social.deletion import STAGES, DeleteAccount
from node.social.follows import Accept, Follow, Unfollow
from node.social.people import may_see, user_view
from node.social.records import COUNTS, FOLLOWERS, FOLLOWING, NAMES, USERS
from storage.rows import Overlay
from tests.node.social.gallery import Gallery
from tests.node.social.village import Village, avatar_url, refused


def busy_life(gallery, user, other):
    """Everything that two accounts can have with each other."""
    for author, viewer in ((user, other), (other, user)):
        gallery.run(author, Follow(author, viewer))
        post = gallery.post(author, "#sun")
        gallery.run(post, likes.Like(viewer, post))
        gallery.run(post, likes.Like(author, post))
        gallery.run(post, comments.AddComment(viewer, post, "well seen"))
        gallery.run(post, comments.AddComment(author, post, "thanks"))
    gallery.photo(user)
    gallery.promise_post(user)
    gallery.run(user, UpdateProfile(user, avatar_media=gallery.ready_medium(user)))


@pytest.mark.parametrize("settled", [False, True])
def test_everything_goes(settled):
    gallery = Gallery()
    command = SignUp("Anna", "Anna", "$", b"h" * 32, gallery.now + 10**9)
    anna = gallery.run_in(5, command, SignedUp).user
    ben, carl = gallery.sign_up("ben", 6), gallery.sign_up("carl", 5)
    dora, emil = gallery.sign_up("dora", 7, private=True), gallery.sign_up("emil", 5)
    busy_life(gallery, anna, ben)
    busy_life(gallery, anna, carl)
    gallery.run(dora, Follow(dora, anna))
    gallery.run(anna, BlockUser(anna, emil))
    gallery.run(emil, BlockUser(emil, anna))
    gallery.run(anna, UpdateProfile(anna, bio="remembered"), scope=anna)
    if settled:
        gallery.settle()
        gallery.check_graph([anna, ben, carl, dora, emil])
    gallery.run(anna, DeleteAccount(anna), scope=anna)
    assert not may_see(gallery.rows, anna, ben).exists
    gallery.settle()
    gallery.check_graph([ben, carl, dora, emil], gone=[anna])
    gallery.check()
    assert [key.name for key, _ in NAMES.scan(gallery.rows, 5) if key.name == "anna"]  # its name rests
    for user in (ben, carl, dora, emil):
        gallery.run(user, DeleteAccount(user))
    gallery.settle()
    gallery.collect_all()
    assert gallery.leftovers() == set()


def test_what_lets_an_account_be_seen_or_act_goes_at_once():
    village = Village()
    anna, ben = village.sign_up("anna"), village.sign_up("ben")
    village.run(anna, DeleteAccount(anna))
    refused("not_found", user_view, village.rows, anna, ben, avatar_url)
    refused("not_found", village.run, anna, Follow(anna, ben))
    refused("unauthenticated", village.run, anna, UpdateProfile(anna, bio="x"))
    refused("unauthenticated", village.run, anna, BlockUser(anna, ben))
    account = USERS.get(village.rows, USERS.key(anna))
    assert (account.username, account.display_name, account.bio, account.avatar) == ("", "", "", None)


def test_deleting_twice_is_deleting_once():
    village = Village()
    anna = village.sign_up("anna")
    for _ in range(3):
        village.run(anna, DeleteAccount(anna))
    assert len(village.busy()) == 1
    village.settle()
    village.run(anna, DeleteAccount(anna))
    village.run(anna + 1, DeleteAccount(anna + 1))
    assert not village.busy()


def test_a_crowd_goes_in_bounded_pieces():
    """500 followers, 500 followed: every apply stays under its bound (the partition asserts it), and other
    commands find their turn between pieces."""
    village = Village()
    anna = village.sign_up("anna", 1)
    others = [village.sign_up(f"other{i}") for i in range(500)]
    for other in others:
        village.run(anna, Follow(anna, other))
        village.run(other, Follow(other, anna))
    village.settle()
    village.run(anna, DeleteAccount(anna))
    pieces = 0
    while village.busy():
        village.proceed(1)
        pieces += 1
    assert pieces == 3 + 3 + len(STAGES) - 2
    village.settle()
    village.check_graph(others, gone=[anna])


def test_no_piece_comes_near_the_bound(monkeypatch):
    village = Village()
    anna = village.sign_up("anna", 1)
    for i in range(200):
        other = village.sign_up(f"other{i}")
        village.run(anna, Follow(anna, other))
    village.settle()
    most = []
    changed = Overlay.changed.fget
    monkeypatch.setattr(Overlay, "changed", property(lambda rows: most.append(changed(rows)) or most[-1]))
    village.run(anna, DeleteAccount(anna))
    village.settle()
    assert 200 < max(most) < ROWS_PER_APPLY_MAX * 0.6


# --- races: each with every order in which the two directions' messages can arrive ---------------------
def accept(village, anna, ben):
    village.run(anna, UpdateProfile(anna, private=True))
    village.run(anna, Follow(anna, ben))
    village.settle()
    village.run(anna, Accept(anna, ben))


UNDER_WAY = {
    "follow": lambda village, a, b: village.run(a, Follow(a, b)),
    "unfollow": lambda village, a, b: (village.run(a, Follow(a, b)), village.run(a, Unfollow(a, b))),
    "accept": accept,
    "block": lambda village, a, b: village.run(a, BlockUser(a, b)),
    "block by the other": lambda village, a, b: village.run(b, BlockUser(b, a)),
}


@pytest.mark.parametrize("who", ["a", "b", "both"])
@pytest.mark.parametrize("under_way", UNDER_WAY.values(), ids=UNDER_WAY)
@pytest.mark.parametrize("first", ["AW", "WA"])
def test_deletion_while_something_is_under_way(under_way, who, first):
    """`A`: messages that are on their way arrive; `W`: the deletion's work is done."""
    village = Village()
    anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
    under_way(village, anna, ben)
    gone = {"a": [anna], "b": [ben], "both": [anna, ben]}[who]
    for user in gone:
        village.run(user, DeleteAccount(user))
    for step in first:
        if step == "A":
            while village.pairs():
                village.deliver(village.pairs()[0])
        while step == "W" and village.busy():
            village.proceed(village.busy()[0])
    village.settle()
    village.check_graph([user for user in (anna, ben) if user not in gone], gone)


@pytest.mark.parametrize("command", [Follow, Unfollow])
def test_a_command_of_a_viewer_who_went_meanwhile_is_taken_back(command):
    """The session was checked before the deletion; the command reaches the author after it."""
    village = Village()
    anna, ben = village.sign_up("anna", 1), village.sign_up("ben", 2)
    village.run(ben, DeleteAccount(ben))
    village.settle()
    village.run(anna, command(anna, ben))
    village.settle()
    village.check_graph([anna], gone=[ben])
    assert COUNTS.get(village.rows, COUNTS.key(anna)).followers == 0
    assert not list(FOLLOWERS.scan(village.rows, anna))
    assert not list(FOLLOWING.scan(village.rows, ben))
