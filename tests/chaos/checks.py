"""What must be so when all faults are over: nothing acknowledged is lost, nothing took effect twice, and all
nodes show the same."""

from collections import Counter

import trio

PAGE = 100
REST_S = 240.0  # for jobs, messages and work to come to an end
UNDER_WAY = ("messages_under_way", "partitions_working", "media_jobs_running", "media_jobs_waiting")
LEVEL_S = 30.0  # for what was published to be in the feeds of all nodes


class Wrong(AssertionError):
    """A law did not hold."""


async def everything(crowd, nodes):
    """Compare the book with what each of `nodes` shows, then their digests."""
    book = crowd.book
    if book.violations:
        raise Wrong(f"{len(book.violations)} violations: {book.violations[:5]}")
    taken_twice = [name for name, times in book.names.items() if times > 1]
    if taken_twice:
        raise Wrong(f"names given twice: {taken_twice}")
    await _at_rest(nodes)
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(_looks_right, crowd, node)
    await digests_equal(nodes)


async def _at_rest(nodes):
    """Until no node has anything under way: a job whose node was killed waits until its claim has run out."""
    deadline = trio.current_time() + REST_S
    while True:
        found = [await trio.to_thread.run_sync(node.ask, "GET", "/v1/admin/status") for node in nodes]
        if not any(one[name] for one in found for name in UNDER_WAY):
            break
        if trio.current_time() > deadline:
            raise Wrong(f"not at rest after {REST_S:.0f} s: {found}")
        await trio.sleep(0.3)
    if letters := [one["dead_letters"] for one in found if one["dead_letters"]]:
        raise Wrong(f"{letters} messages were refused for good")


async def _looks_right(crowd, node):
    for person in crowd.people:
        await _posts(crowd.book, person, node)
        await _edges(crowd, person, node)
        await _feed(crowd, person, node)
    for post in sorted({post for post, _ in crowd.book.posts.values()}):
        await _post(crowd, post, node)


async def _pages(person, node, path, name):
    found, cursor = [], ""
    while True:
        answer = await _patient(
            person, node, f"{path}?limit={PAGE}" + (f"&cursor={cursor}" if cursor else "")
        )
        found += answer[name]
        cursor = answer["next_cursor"]
        if not cursor:
            return found


async def _patient(person, node, path):
    from tests.chaos.load import NotNow

    with trio.fail_after(LEVEL_S):
        while True:
            try:
                answer = await person.ask("GET", path, node=node)
            except NotNow:
                await trio.sleep(0.1)
                continue
            if answer.status_code != 200:
                raise Wrong(f"node {node.number}: {path}: {answer.status_code} {answer.text}")
            return answer.json()


async def _posts(book, person, node):
    """Each acknowledged post is there once; one without an answer at most once; no other."""
    grid = Counter(
        post["caption"] for post in await _pages(person, node, f"/v1/users/{person.id}/photos", "photos")
    )
    mine = {caption for caption, (_, author) in book.posts.items() if author == person.id}
    perhaps = {caption for caption, author in book.maybe_posts.items() if author == person.id}
    where = f"node {node.number}, {person.name}"
    if lost := mine - set(grid):
        raise Wrong(f"{where}: {len(lost)} acknowledged posts are lost: {sorted(lost)[:5]}")
    if strange := set(grid) - mine - perhaps:
        raise Wrong(f"{where}: posts that nobody made: {sorted(strange)[:5]}")
    if twice := [caption for caption, times in grid.items() if times > 1]:
        raise Wrong(f"{where}: posted twice: {twice[:5]}")


async def _edges(crowd, person, node):
    following = [u["id"] for u in await _pages(person, node, f"/v1/users/{person.id}/following", "users")]
    wanted = sorted(a for (viewer, a), held in crowd.book.follows.items() if held and viewer == person.id)
    if sorted(following) != wanted:
        raise Wrong(f"node {node.number}: {person.name} follows {sorted(following)}, not {wanted}")
    followers = [u["id"] for u in await _pages(person, node, f"/v1/users/{person.id}/followers", "users")]
    wanted = sorted(v for (v, author), held in crowd.book.follows.items() if held and author == person.id)
    if sorted(followers) != wanted:
        raise Wrong(f"node {node.number}: {sorted(followers)} follow {person.name}, not {wanted}")


async def _feed(crowd, person, node):
    """Within LEVEL_S the feed has every post of those whom the person follows, in order."""
    book = crowd.book
    authors = {a for (viewer, a), held in book.follows.items() if held and viewer == person.id} | {person.id}
    wanted = {post for post, author in book.posts.values() if author in authors}
    deadline = trio.current_time() + LEVEL_S
    while True:
        feed = await _pages(person, node, "/v1/feed", "posts")
        missing = wanted - {post["id"] for post in feed}
        if not missing:
            break
        if trio.current_time() > deadline:
            told = [await _as_its_author_sees_it(crowd, post, node) for post in missing]
            raise Wrong(f"node {node.number}: the feed of {person.name} lacks {len(missing)}: {told}")
        await trio.sleep(0.3)
    order = [post["published_at"] for post in feed]
    if order != sorted(order, reverse=True):
        raise Wrong(f"node {node.number}: the feed of {person.name} is out of order")
    if strange := [post["id"] for post in feed if post["user"]["id"] not in authors]:
        raise Wrong(f"node {node.number}: {person.name} follows no author of {strange[:5]}")


async def _as_its_author_sees_it(crowd, post, node):
    """Its status and what failed: nobody else is told."""
    author = next(author for made, author in crowd.book.posts.values() if made == post)
    person = next(one for one in crowd.people if one.id == author)
    answer = await person.ask("GET", f"/v1/posts/{post}", node=node)
    seen = answer.json()
    return {name: seen.get(name) for name in ("id", "upload_status", "failure", "created_at", "detail")}


async def _post(crowd, post, node):
    reader, book = crowd.people[0], crowd.book
    likes = [user["id"] for user in await _pages(reader, node, f"/v1/posts/{post}/likes", "users")]
    wanted = sorted(user for (user, liked), held in book.likes.items() if held and liked == post)
    if sorted(likes) != wanted:
        raise Wrong(f"node {node.number}: post {post} is liked by {sorted(likes)}, not {wanted}")
    comments = await _pages(reader, node, f"/v1/posts/{post}/comments", "comments")
    texts = Counter(one["text"] for one in comments)
    sure = {text for text, (_, on, _) in book.comments.items() if on == post}
    perhaps = {text for text, on in book.maybe_comments.items() if on == post}
    if lost := sure - set(texts):
        raise Wrong(f"node {node.number}: comments on {post} are lost: {sorted(lost)}")
    if strange := set(texts) - sure - perhaps:
        raise Wrong(f"node {node.number}: comments on {post} that nobody made: {sorted(strange)}")
    if twice := [text for text, times in texts.items() if times > 1]:
        raise Wrong(f"node {node.number}: commented twice: {twice}")


async def digests_equal(nodes):
    answer = await trio.to_thread.run_sync(lambda: nodes[0].ask("POST", "/v1/admin/cluster/digest", json={}))
    if answer["different"] or answer["unheard"]:
        raise Wrong(f"digests: {str(answer)[:2000]}")
    if answer["compared"] < 256 or answer["replicas"] < len(nodes):
        raise Wrong(f"digests of too few: {str(answer)[:2000]}")
