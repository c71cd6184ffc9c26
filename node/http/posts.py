"""Posts over HTTP: photos and albums, their pages, the grid, likes and comments."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated

import msgspec
import trio
from quart import Response, request

from cluster.replicas import now_ms
from node.feeds.rendering import MediaUrls, PostView, Renderer
from node.http.admission import Admission, signed, tell, viewer
from node.http.bodies import Field, FileChunk, FileEnd, FileStart, form, read_json
from node.http.media import Uploads
from node.http.openapi import Routes, empty, render
from node.http.pages import PageQuery, Users, asked, opened, sealed
from node.http.problems import Body, Problem, text
from node.media.intake import Received
from node.media.probe import WHAT_WE_TAKE
from node.parts import Parts
from node.service import Retry
from node.social import comments, likes, pages, posts
from node.social.hashtags import hashtags
from node.social.keys import UserKey
from node.social.media import ALT_MAX
from node.social.pages import CommentView, GridCursor, SeenPost
from node.social.people import rfc3339, short_users
from node.social.records import USERS
from node.social.uploads import Promised
from storage.ids import IdError, parse_id, partition_of
from storage.rows import Reader

GONE = ("not_found",)  # to a retry, where what the first request made was deleted since
FORM_OVERHEAD_BYTES = 64 << 10  # of a multipart form beside the photo: fields and headers
GRID_LIMIT = 30
FEED_LIMIT = 10

Caption = Annotated[str, msgspec.Meta(max_length=posts.CAPTION_MAX)]
Location = Annotated[str, msgspec.Meta(max_length=posts.LOCATION_MAX)]
Alt = Annotated[str, msgspec.Meta(max_length=ALT_MAX)]
TEXTS_MAX = {"caption": posts.CAPTION_MAX, "location": posts.LOCATION_MAX, "alt": ALT_MAX}  # characters
PHOTO_FORM = {
    "photo": {"type": "string", "format": "binary", "minLength": 1},
    **{name: {"type": "string", "maxLength": most} for name, most in TEXTS_MAX.items()},
}


class NewPost(Body, frozen=True):
    """Either a photo to come (`content_type`, `size`, `alt?`) or an album (`media_ids`)."""

    caption: Caption = ""
    location: Location = ""
    alt: Alt = ""
    content_type: str | None = None
    size: int | None = None
    media_ids: Annotated[list[str], msgspec.Meta(max_length=posts.ALBUM_MAX)] | None = None


class PostChange(Body, frozen=True):
    caption: Caption | None = None
    location: Location | None = None
    alts: Annotated[dict[str, Alt], msgspec.Meta(max_length=posts.ALBUM_MAX)] | None = None


class NewComment(Body, frozen=True):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=comments.COMMENT_MAX)]


class PromisedPost(msgspec.Struct, frozen=True):
    post_id: str
    upload_url: str
    expires_at: str
    upload_status: str


class Photo(msgspec.Struct, frozen=True):
    photo_id: str
    urls: MediaUrls | None
    post: PostView


class PostList(msgspec.Struct, frozen=True):
    posts: tuple[PostView, ...]
    next_cursor: str | None


class Photos(msgspec.Struct, frozen=True):
    photos: tuple[PostView, ...]
    next_cursor: str | None


class LikeState(msgspec.Struct, frozen=True):
    like_count: int
    liked_by_me: bool


class Comments(msgspec.Struct, frozen=True):
    comments: tuple[CommentView, ...]
    next_cursor: str | None


def make_routes(parts: Parts, admission: Admission, renderer: Renderer, uploads: Uploads) -> Routes:
    routes = Routes("posts")
    service = parts.service

    # --- making posts ----------------------------------------------------------------------------------
    @routes.add(
        "POST", "/v1/photos", "Post a photo", upload="multipart/form-data", form=PHOTO_FORM,
        form_required=("photo",), answers={201: Photo}, limit="uploads",
        problems=("malformed_form", "unknown_field", "invalid_field", *GONE), idempotent_by_key=True,
    )  # fmt: skip
    async def post_photo() -> Response:
        who = signed()
        received, fields = await receive_photo(parts)
        body = received.hash + msgspec.msgpack.encode(sorted(fields.items()))
        try:
            async with admission.once(who.user, body) as retry:
                created = await create_photo(who.user, received, fields, retry)
        finally:
            received.staged.abandon()
        await uploads.wait_for(created.media[0])
        post = await shown(created.post)
        return render(Photo(post.id, post.media[0].urls, post), 201)

    async def create_photo(
        author: int, received: Received, fields: dict[str, str], retry: Retry | None
    ) -> posts.Created:
        stored = await parts.intake.store(received, author)
        assert received.type is not None
        caption = fields.get("caption", "")
        command = posts.CreatePhoto(
            author, caption, fields.get("location", ""), hashtags(caption), fields.get("alt", ""),
            stored.hash, received.type.mime, stored.size, stored.media,
        )  # fmt: skip
        home = partition_of(author)
        done = await service.do(home, command, posts.Created, by=author, retry=retry)
        tell(done)
        return done.result

    @routes.add(
        "POST", "/v1/posts", "Promise a photo, or make an album of uploaded media", body=NewPost,
        answers={201: PostView | PromisedPost}, limit="uploads",
        problems=("invalid_field", "conflict", "too_large", "unsupported_media", *GONE),
        idempotent_by_key=True,
    )  # fmt: skip
    async def create_post() -> Response:
        wanted = await read_json(request, NewPost)
        who = signed()
        async with admission.once(who.user, msgspec.json.encode(wanted)) as retry:
            if wanted.media_ids is not None:
                return render(await create_album(who.user, wanted, wanted.media_ids, retry), 201)
            return render(await promise_post(who.user, wanted, retry), 201)

    async def create_album(
        author: int, wanted: NewPost, media_ids: list[str], retry: Retry | None
    ) -> PostView:
        if wanted.content_type is not None or wanted.size is not None or wanted.alt:
            raise Problem(
                "invalid_field", "media_ids go without content_type, size and alt: media have theirs"
            )
        media = tuple(written_id("media_ids", written) for written in media_ids)
        tags = hashtags(wanted.caption)
        command = posts.CreatePost(author, wanted.caption, wanted.location, tags, media)
        done = await service.do(partition_of(author), command, posts.Created, by=author, retry=retry)
        tell(done)
        return await shown(done.result.post)

    async def promise_post(author: int, wanted: NewPost, retry: Retry | None) -> PromisedPost:
        content_type, size = uploads.declared(wanted.content_type, wanted.size)
        command = posts.PromisePost(
            author, wanted.caption, wanted.location, hashtags(wanted.caption), wanted.alt, content_type, size,
            uploads.lives_ms,
        )  # fmt: skip
        done = await service.do(partition_of(author), command, Promised, by=author, retry=retry)
        tell(done)
        promise = uploads.promise(author, done.result, content_type, size)
        return PromisedPost(str(done.result.post), promise.upload_url, promise.expires_at, "pending")

    # --- one post --------------------------------------------------------------------------------------
    @routes.add(
        "GET", "/v1/posts/<id:post_id>", "A post", answers={200: PostView}, signed_in=False,
        problems=("not_found",),
    )  # fmt: skip
    async def post(post_id: int) -> Response:
        with service.read() as rows:
            return render(view(rows, pages.post_page(rows, post_id, viewer())))

    @routes.add(
        "PATCH", "/v1/posts/<id:post_id>", "Change a post's words", body=PostChange, answers={200: PostView},
        problems=("not_found", "forbidden", "invalid_field"),
    )  # fmt: skip
    async def edit_post(post_id: int) -> Response:
        wanted = await read_json(request, PostChange)
        alts = sorted((written_id("alts", key), alt) for key, alt in (wanted.alts or {}).items())
        tags = hashtags(wanted.caption) if wanted.caption is not None else ()
        command = posts.EditPost(signed().user, post_id, wanted.caption, tags, wanted.location, tuple(alts))
        tell(await service.do(partition_of(post_id), command))
        return render(await shown(post_id))

    @routes.add(
        "DELETE", "/v1/posts/<id:post_id>", "Delete a post", answers={204: None},
        problems=("not_found", "forbidden"),
    )  # fmt: skip
    async def delete_post(post_id: int) -> Response:
        command = posts.DeletePost(signed().user, post_id)
        tell(await service.do(partition_of(post_id), command, grows=False))
        return empty()

    # --- lists of posts --------------------------------------------------------------------------------
    @routes.add(
        "GET", "/v1/users/<id:user_id>/photos", "A user's grid, newest first", query=PageQuery,
        answers={200: Photos}, signed_in=False, problems=("not_found", "forbidden", "invalid_cursor"),
    )  # fmt: skip
    async def grid(user_id: int) -> Response:
        query = asked()
        name = f"photos/{user_id}"
        after = opened(parts, query, name, GridCursor)
        with service.read() as rows:
            page = pages.grid_page(rows, user_id, viewer(), after, query.limit or GRID_LIMIT)
            photos = tuple(views(rows, page.posts))
        return render(Photos(photos, sealed(parts, page.after, name)))

    @routes.add(
        "GET", "/v1/feed", "One's feed, newest first", query=PageQuery, answers={200: PostList},
        problems=("invalid_cursor",),
    )  # fmt: skip
    async def feed() -> Response:
        query = asked()
        before = opened(parts, query, "feed", int)
        with service.read() as rows:
            page = parts.feeds.page(rows, signed().user, before, query.limit or FEED_LIMIT, now_ms())
        cursor = sealed(parts, page.next, "feed")
        end = b"null" if cursor is None else b'"' + cursor.encode() + b'"'
        body = b"".join((b'{"posts":', page.posts, b',"next_cursor":', end, b"}"))
        return Response(body, content_type="application/json")

    # --- likes -----------------------------------------------------------------------------------------
    @routes.add(
        "POST", "/v1/posts/<id:post_id>/like", "Like a post", answers={200: LikeState},
        problems=("not_found", "conflict"), idempotent_by_key=True,
    )  # fmt: skip
    async def like(post_id: int) -> Response:
        me = signed().user
        command = likes.Like(me, post_id)
        async with admission.once(me) as retry:
            home = partition_of(post_id)
            done = await service.do(home, command, likes.Likes, by=me, retry=retry, told=partition_of(me))
        tell(done)
        return render(LikeState(done.result.like_count, done.result.liked_by_me))

    @routes.add(
        "DELETE", "/v1/posts/<id:post_id>/like", "Take a like back", answers={200: LikeState},
        problems=("not_found",),
    )  # fmt: skip
    async def unlike(post_id: int) -> Response:
        me = signed().user
        command = likes.Unlike(me, post_id)
        done = await service.do(
            partition_of(post_id), command, likes.Likes, grows=False, told=partition_of(me)
        )
        tell(done)
        return render(LikeState(done.result.like_count, done.result.liked_by_me))

    @routes.add(
        "GET", "/v1/posts/<id:post_id>/likes", "Who likes a post, newest first", query=PageQuery,
        answers={200: Users}, signed_in=False, problems=("not_found", "invalid_cursor"),
    )  # fmt: skip
    async def likers(post_id: int) -> Response:
        query = asked()
        name = f"likes/{post_id}"
        after = opened(parts, query, name, int)
        with service.read() as rows:
            page = pages.likes_page(
                rows, post_id, viewer(), after, query.limit or GRID_LIMIT, renderer.avatar_url
            )
        return render(Users(page.users, sealed(parts, page.after, name)))

    # --- comments --------------------------------------------------------------------------------------
    @routes.add(
        "POST", "/v1/posts/<id:post_id>/comments", "Comment on a post", body=NewComment,
        answers={201: CommentView}, problems=("not_found", "conflict", "invalid_field"),
        idempotent_by_key=True,
    )  # fmt: skip
    async def add_comment(post_id: int) -> Response:
        wanted = await read_json(request, NewComment)
        me = signed().user
        command = comments.AddComment(me, post_id, wanted.text)
        async with admission.once(me, wanted.text.encode()) as retry:
            home = partition_of(post_id)
            done = await service.do(home, command, comments.Added, by=me, retry=retry, told=partition_of(me))
        tell(done)
        with service.read() as rows:
            me_short = short_users(rows, [me], renderer.avatar_url)[me]
        made = done.result
        view_of = CommentView(
            str(made.comment), str(post_id), me_short, wanted.text, rfc3339(made.created_ms)
        )
        return render(view_of, 201)

    @routes.add(
        "GET", "/v1/posts/<id:post_id>/comments", "A post's comments, newest first", query=PageQuery,
        answers={200: Comments}, signed_in=False, problems=("not_found", "invalid_cursor"),
    )  # fmt: skip
    async def comments_of(post_id: int) -> Response:
        query = asked()
        name = f"comments/{post_id}"
        after = opened(parts, query, name, int)
        with service.read() as rows:
            page = pages.comments_page(
                rows, post_id, viewer(), after, query.limit or GRID_LIMIT, renderer.avatar_url
            )
        return render(Comments(page.comments, sealed(parts, page.after, name)))

    @routes.add(
        "DELETE", "/v1/comments/<id:comment_id>", "Delete a comment: by its author or the post's",
        answers={204: None}, problems=("not_found", "forbidden"),
    )  # fmt: skip
    async def delete_comment(comment_id: int) -> Response:
        me = signed().user
        command = comments.DeleteComment(me, comment_id)
        tell(await service.do(partition_of(comment_id), command, grows=False, told=partition_of(me)))
        return empty()

    # --- rendering -------------------------------------------------------------------------------------
    async def shown(post_id: int) -> PostView:
        """One's own post as it is now, after a write."""
        await service.visible(partition_of(post_id))
        with service.read() as rows:
            return view(rows, pages.post_page(rows, post_id, viewer()))

    def view(rows: Reader, seen: SeenPost) -> PostView:
        return next(views(rows, [seen]))

    def views(rows: Reader, seen: Sequence[SeenPost]) -> Iterator[PostView]:
        authors = USERS.get_many(rows, {UserKey(one.post.author) for one in seen})
        for one in seen:
            author = authors[UserKey(one.post.author)]
            yield renderer.view(one.id, one.post, author, viewer(), one.liked, now_ms())

    return routes


def written_id(name: str, written: str) -> int:
    try:
        return parse_id(written)
    except IdError as wrong:
        raise Problem("invalid_field", f"{name}: {wrong}") from None


async def receive_photo(parts: Parts) -> tuple[Received, dict[str, str]]:
    """The photo of a multipart form, staged, and the form's fields. Raises Problem, TooLarge, StorageFull."""
    photo_bytes_max = parts.settings.media.photo_bytes_max
    events = form(request, photo_bytes_max + FORM_OVERHEAD_BYTES)
    fields: dict[str, str] = {}
    received: Received | None = None
    try:
        async for event in events:
            match event:
                case Field() if event.name in TEXTS_MAX and event.name not in fields:
                    fields[event.name] = text(event.value, event.name, TEXTS_MAX[event.name])
                case FileStart() if event.name == "photo" and received is None:
                    received = await parts.intake.receive(_chunks(events), photo_bytes_max)
                case Field() | FileStart():
                    names = "photo, caption, location, alt, once each"
                    raise Problem("unknown_field", f"{event.name[:40]}: want {names}")
        if received is None:
            raise Problem("invalid_field", "photo: the form has no file of this name")
        if not received.size:
            raise Problem("invalid_field", "photo: the file is empty")
        if received.type is None:
            raise Problem("unsupported_media", f"want a picture: {WHAT_WE_TAKE}")
        return received, fields
    except BaseException:
        if received is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(received.staged.abandon)
        raise


async def _chunks(events: AsyncIterator[Field | FileStart | FileChunk | FileEnd]) -> AsyncIterator[bytes]:
    async for event in events:
        match event:
            case FileChunk():
                yield event.data
            case FileEnd():
                return
