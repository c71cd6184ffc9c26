"""Posts as JSON: strict against their declared shape, never stale, signed where they are private."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.feeds.memo import Memo
from node.feeds.reader import Feeds
from node.feeds.rendering import SIGNED_S, SIGNED_STEP_S, Renderer, signed_until
from node.social.records import Avatar, PostMedia
from tests.node.feeds.network import NOW, Network, picture, sign
from tests.node.feeds.pages import decode


class Off:
    cache_bytes = 0
    pull_above = 1


TEXT = st.text(max_size=8)
MEDIA = st.builds(
    PostMedia,
    media=st.integers(1, 2**64 - 1),
    type=st.sampled_from(["image/jpeg", "image/heic", "image/x-new"]),
    width=st.integers(0, 9000),
    height=st.integers(0, 9000),
    alt=TEXT,
    placeholder=TEXT,
    original=st.binary(min_size=32, max_size=32),
    variants=st.sampled_from([(), picture(1 << 40).variants]),
)


def stand(public_url=""):
    network = Network(2)
    return network, Feeds(Off, Renderer(sign, public_url), shards=1)


def rendered(network, feeds, viewer, post, now=NOW):
    (body,) = feeds.render(network.rows, viewer, [post], now)
    (view,) = decode(b"[" + body + b"]")
    return view


@settings(deadline=None, max_examples=150)
@given(
    caption=TEXT,
    location=TEXT,
    hashtags=st.lists(TEXT, max_size=3).map(tuple),
    media=st.lists(MEDIA, max_size=3).map(tuple),
    status=st.sampled_from(["pending", "processing", "complete", "failed"]),
    failure=TEXT,
    likes=st.integers(0, 2**31),
    edited_ms=st.sampled_from([0, NOW]),
    name=TEXT,
    private=st.booleans(),
    own=st.booleans(),
    liked=st.booleans(),
)
def test_every_post_is_of_the_declared_shape(name, private, own, liked, **fields):
    network, feeds = stand()
    author, other = network.people
    viewer = author if own else other
    post = network.publish(author)
    avatar = Avatar(1, bytes(32), b"\x01" * 32) if own else None
    network.change_user(author, display_name=name, private=private, avatar=avatar)
    network.put_post(post, msgspec.structs.replace(network.posts[post], **fields))
    if liked:
        network.like(viewer, post)
    (body,) = feeds.render(network.rows, viewer, [post], network.now)
    assert b"[" + body + b"]" == network.rendered(viewer, [post])
    (view,) = decode(b"[" + body + b"]")
    assert (view.caption, view.upload_status, view.liked_by_me) == (
        fields["caption"],
        fields["status"],
        liked,
    )
    assert feeds.render(network.rows, viewer, [post], network.now) == [body]


def test_times_ids_and_urls():
    network, feeds = stand()
    author, other = network.people
    view = rendered(network, feeds, other, network.publish(author))
    assert view.created_at == "2027-01-15T08:00:00.005Z"
    assert view.published_at == "2027-01-15T08:00:00.004Z"
    assert (view.edited_at, view.failure) == (None, None)
    assert view.user.id == str(author)
    urls = view.media[0].urls
    assert urls.medium.jpeg == view.photo_url
    assert urls.medium.jpeg.startswith("/media/") and urls.medium.jpeg.endswith(".jpeg")
    assert urls.original is None


def test_urls_are_absolute_under_a_public_url():
    network, feeds = stand("https://photos.example/")
    view = rendered(network, feeds, network.people[1], network.publish(network.people[0]))
    assert view.photo_url.startswith("https://photos.example/media/")


def test_an_original_is_for_its_owner_and_signed():
    network, feeds = stand()
    author, other = network.people
    post = network.publish(author)
    assert (
        rendered(network, feeds, author, post)
        .media[0]
        .urls.original.endswith(
            "&name=" + rendered(network, feeds, author, post).media[0].urls.original.split("/media/")[1][:4]
        )
    )
    assert f"viewer={author}&" in rendered(network, feeds, author, post).media[0].urls.original
    assert rendered(network, feeds, other, post).media[0].urls.original is None
    assert "?" not in rendered(network, feeds, author, post).photo_url


def test_private_media_are_signed_for_each_viewer_and_not_beyond_their_time():
    network, feeds = stand()
    author, other = network.people
    post = network.publish(author)
    public = rendered(network, feeds, other, post).photo_url
    network.change_user(author, private=True)
    first = rendered(network, feeds, other, post).photo_url
    assert first.startswith(f"{public}?viewer={other}&until={signed_until(NOW)}&")
    assert f"viewer={author}&" in rendered(network, feeds, author, post).photo_url
    step = SIGNED_STEP_S * 1000
    assert rendered(network, feeds, other, post, NOW - NOW % step + step - 1).photo_url == first
    assert rendered(network, feeds, other, post, NOW + step).photo_url != first
    network.change_user(author, private=False)
    assert rendered(network, feeds, other, post).photo_url == public


@given(st.integers(0, 1 << 45))
def test_signatures_live_between_45_and_60_minutes(now_ms):
    left = signed_until(now_ms) - now_ms // 1000
    assert SIGNED_S - SIGNED_STEP_S < left <= SIGNED_S


def test_a_private_post_without_a_function_that_signs_is_a_bug():
    network = Network(1)
    post = network.publish(network.people[0])
    with pytest.raises(AssertionError, match="sign"):
        Feeds(Off, Renderer(), shards=1).render(network.rows, network.people[0], [post], NOW)


def test_a_grid_shows_what_exists_in_the_order_asked_for():
    network, feeds = stand()
    author, _ = network.people
    posts = [network.publish(author, caption=str(n)) for n in range(4)]
    network.withdraw(posts[1], row_stays=True)
    network.withdraw(posts[2])
    bodies = feeds.render(network.rows, 0, [posts[3], posts[1], posts[0], posts[2]], NOW)
    assert [json.caption for json in decode(b"[" + b",".join(bodies) + b"]")] == ["3", "0"]


def test_a_viewer_with_many_likes_between_is_asked_post_by_post():
    network, feeds = stand()
    author, viewer = network.people
    network.follow(viewer, author)
    posts = [network.publish(author) for _ in range(120)]
    for post in posts[::2]:
        network.like(viewer, post)
    shown = [posts[119], posts[60], posts[1], posts[0]]
    bodies = feeds.render(network.rows, viewer, shown, NOW)
    views = decode(b"[" + b",".join(bodies) + b"]")
    assert [view.liked_by_me for view in views] == [False, True, False, True]
    assert [view.like_count for view in views] == [0, 1, 0, 1]


def test_a_memo_keeps_what_is_asked_for_and_stays_within_its_bytes():
    memo = Memo(1000)
    for number in range(100):
        memo.keep(number.to_bytes(8, "big"), number, 100)
        assert memo.find(bytes(8)) == 0
        assert memo.held <= 1100
    assert memo.find((1).to_bytes(8, "big")) is None
    assert memo[(99).to_bytes(8, "big")] == 99
