"""`heliograph demo`: a throw-away node with twelve people who post, follow, like and comment.

Everything goes through the HTTP API, as any client would do it, with limits raised for the occasion. The
node's data lie in a temporary folder and go when it ends.
"""

import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import httpx
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cli import demo_cluster
from cli.client import failure
from cli.drawings import landscape
from cli.network import User
from cli.output import Failure, called, note, print_json, print_table

if TYPE_CHECKING:
    from node.settings import Settings

PEOPLE: Final = (
    "ada", "bruno", "chiara", "dmitri", "elif", "farid", "greta", "hana", "imre", "joana", "kofi", "lena",
)  # fmt: skip
PASSWORD: Final = "demo-password"
DRAWN_PER_PERSON: Final = 2
PHOTOS_MAX: Final = 120  # of the folder
FOLLOWS_EACH: Final = 7
LIKES: Final = (2, 8)  # of a post: at least, at most
COMMENTS_MAX: Final = 2  # on a post
CAPTIONS: Final = (
    "Morning light #sunrise", "On the way home", "Nobody around #quiet", "After the rain",
    "The long road #hills", "Found this by chance", "Blue hour #dusk", "Worth getting up for",
    "Again and again #favourite",
)  # fmt: skip
WORDS: Final = (
    "Lovely!",
    "Where is this?",
    "What a light.",
    "I was there last year.",
    "This one is my favourite.",
)
ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".heic", ".heif"})
FLAGS: Final = (
    "admin.port=0", "media.photo_bytes_max=67108864",  # what cameras make, not what a public node wants
    "limits.sign_up_count=1000", "limits.sign_in_count=1000", "limits.uploads_count=10000",
    "limits.writes_count=100000", "limits.reads_count=100000",
)  # fmt: skip
SEED: Final = 12
REQUEST_S: Final = 60.0
COMPLETE_S_MAX: Final = 300.0  # for the variants of one photo, its three tries included
POLL_S: Final = 0.1


class Picture(NamedTuple):
    """A picture to post. It is read, or drawn, when its turn comes: a folder of photographs is large."""

    title: str
    read: Callable[[], bytes]


class Person(NamedTuple):
    user: User
    access_token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


class Demo(NamedTuple):
    """What came of it."""

    url: str
    people: tuple[Person, ...]
    posts: int
    left_out: tuple[str, ...]  # pictures that were refused, and why


@click.command("demo")
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photographs to post; without it, drawn ones.",
)
@click.option(
    "--http", "address", default="127.0.0.1:8000", show_default=True, help="HOST:PORT to listen on."
)
@click.option(
    "--nodes",
    "count",
    default=1,
    show_default=True,
    type=click.IntRange(1, 7),
    help="So many nodes in one cluster, on this port and those after it.",
)
@click.option("--once", is_flag=True, help="End when everything is posted, instead of serving on.")
@click.option("--json", "as_json", is_flag=True, help="The sign-ins as JSON on stdout.")
def demo(photos: Path | None, address: str, count: int, once: bool, as_json: bool) -> None:
    """Start a throw-away node, or a cluster of several, and fill it with twelve people and their pictures."""
    from node.logs import set_up
    from node.settings import SettingsError, load

    host, _, port = address.rpartition(":")
    try:
        # Not from the environment: settings meant for a real node have no place in a demo.
        settings = load(flags=[f"http.host={host}", f"http.port={port}", *FLAGS], environment={})
    except SettingsError as wrong:
        raise click.UsageError(f"--http {address}: {wrong}") from None
    pictures = drawn() if photos is None else found_in(photos)
    if not pictures:
        raise click.UsageError(f"{photos} has no photographs")
    set_up(form="console", level="error")
    with tempfile.TemporaryDirectory(prefix="heliograph-demo-") as folder, _plain_ends():
        if count == 1:
            trio.run(_run, Path(folder), settings, pictures, once, as_json)
        else:
            village = demo_cluster.Cluster(Path(folder), settings.http.host, settings.http.port, FLAGS)
            trio.run(_run_cluster, village, count, pictures, once, as_json)


async def _run(
    folder: Path, settings: "Settings", pictures: list[Picture], once: bool, as_json: bool
) -> None:
    from node.app import run_node

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def end_on_signal() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_on_signal)
            addresses = await nursery.start(run_node, folder, settings, trio.Event())
            made = await fill(addresses.http.url, pictures)
            _tell(made, as_json)
            if once:
                nursery.cancel_scope.cancel()
            else:
                note("Ctrl-C ends the node and removes its data.")


async def _run_cluster(
    cluster: demo_cluster.Cluster, count: int, pictures: list[Picture], once: bool, as_json: bool
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with trio.open_nursery() as nursery:

                async def end_on_signal() -> None:
                    await anext(signals)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(end_on_signal)
                note(f"{count} nodes start")
                await trio.to_thread.run_sync(cluster.grow, count, abandon_on_cancel=True)
                _tell(await fill(cluster.nodes[0].url, pictures), as_json, cluster.facts())
                if not as_json:
                    cluster.tell()
                if once:
                    nursery.cancel_scope.cancel()
                else:
                    note("Ctrl-C ends the nodes and removes their data.")
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cluster.close)


@contextmanager
def _plain_ends() -> Iterator[None]:
    """What is the world's fault is one line; all else keeps its traceback."""
    from node.http.server import CannotListen

    try:
        yield
    except BaseExceptionGroup as group:
        causes = list(_leaves(group))
        if len(causes) == 1 and isinstance(causes[0], CannotListen):
            raise Failure(f"{causes[0]}; does another node run there? Choose another with --http") from None
        if len(causes) == 1 and isinstance(causes[0], OSError):
            raise Failure(str(causes[0])) from None
        if len(causes) == 1 and isinstance(causes[0], click.ClickException):
            raise causes[0] from None
        raise


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


# --- pictures ------------------------------------------------------------------------------------------
def drawn() -> list[Picture]:
    """Landscapes, the same ones each time."""
    seeds = range(len(PEOPLE) * DRAWN_PER_PERSON)
    return [Picture(f"hills under a sky, drawing {seed + 1}", partial(landscape, seed)) for seed in seeds]


def found_in(folder: Path) -> list[Picture]:
    """The photographs of a folder by name, PHOTOS_MAX at most."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in ENDINGS)
    return [Picture(path.stem.replace("_", " "), path.read_bytes) for path in files[:PHOTOS_MAX]]


# --- what they do --------------------------------------------------------------------------------------
async def fill(url: str, pictures: list[Picture]) -> Demo:
    """Sign everybody up, let them follow, post, like and comment. Raises Failure."""
    columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_S, trust_env=False) as client:
            steps = len(PEOPLE) * 2 + len(pictures) * 2
            village = Village(client, bar, bar.add_task("twelve people sign up", total=steps))
            people = await village.sign_up()
            await village.follow(people)
            posts, left_out = await village.post(people, pictures)
            shown = await village.complete(posts, left_out)
            await village.like_and_comment(people, shown)
    return Demo(url, people, len(shown), tuple(left_out))


class Village:
    """The twelve, by way of the API. What they do follows from SEED."""

    def __init__(self, client: httpx.AsyncClient, bar: Progress, task: TaskID) -> None:
        self._client = client
        self._bar = bar
        self._task = task
        self._rng = random.Random(SEED)

    async def sign_up(self) -> tuple[Person, ...]:
        people = []
        for name in PEOPLE:
            wanted = {"username": name, "password": PASSWORD, "display_name": name.capitalize()}
            answer = await self._call("POST", "/v1/users", json=wanted)
            user = answer["user"]
            person = Person(User(user["id"], user["username"], user["display_name"]), answer["access_token"])
            people.append(person)
            self._bar.advance(self._task)
        return tuple(people)

    async def follow(self, people: tuple[Person, ...]) -> None:
        self._bar.update(self._task, description="they follow each other")
        for person in people:
            others = [other for other in people if other is not person]
            for other in self._rng.sample(others, FOLLOWS_EACH):
                await self._call("POST", "/v1/follows", person, json={"followed_id": other.user.id})
            self._bar.advance(self._task)

    async def post(
        self, people: tuple[Person, ...], pictures: list[Picture]
    ) -> tuple[list[tuple[Person, str, str]], list[str]]:
        """The posts made, as (author, id, title), and what was refused."""
        self._bar.update(self._task, description="they post")
        posts: list[tuple[Person, str, str]] = []
        left_out: list[str] = []
        for number, picture in enumerate(pictures):
            author = people[number % len(people)]
            form = {"caption": self._rng.choice(CAPTIONS), "alt": picture.title}
            try:
                # In a thread: the node runs in this one.
                files = {"photo": await trio.to_thread.run_sync(picture.read)}
                answer = await self._call("POST", "/v1/photos", author, files=files, data=form)
                posts.append((author, answer["photo_id"], picture.title))
            except (OSError, Failure) as wrong:
                left_out.append(f"{picture.title}: {wrong}")
            self._bar.advance(self._task)
        return posts, left_out

    async def complete(self, posts: list[tuple[Person, str, str]], left_out: list[str]) -> list[str]:
        """The ids of the posts that all can see, once that is known of each."""
        shown = []
        for author, post, title in posts:
            status, seen = "processing", {}
            with trio.move_on_after(COMPLETE_S_MAX):
                while status not in ("complete", "failed"):
                    seen = await self._call("GET", f"/v1/posts/{post}", author)
                    status = seen["upload_status"]
                    if status == "processing":
                        await trio.sleep(POLL_S)
            if status == "complete":
                shown.append(post)
            else:
                left_out.append(f"{title}: {seen.get('failure') or status}")
        return shown

    async def like_and_comment(self, people: tuple[Person, ...], posts: list[str]) -> None:
        self._bar.update(self._task, description="they like and comment")
        for post in posts:
            for person in self._rng.sample(people, self._rng.randint(*LIKES)):
                await self._call("POST", f"/v1/posts/{post}/like", person)
            for person in self._rng.sample(people, self._rng.randint(0, COMMENTS_MAX)):
                words = {"text": self._rng.choice(WORDS)}
                await self._call("POST", f"/v1/posts/{post}/comments", person, json=words)
            self._bar.advance(self._task)
        self._bar.update(self._task, description="done", completed=self._bar.tasks[0].total)

    async def _call(
        self, method: str, path: str, person: Person | None = None, **request: Any
    ) -> dict[str, Any]:
        headers = person.headers if person else None
        answer = await self._client.request(method, path, headers=headers, **request)
        if answer.is_error:
            raise failure(answer.status_code, answer.content)
        body: dict[str, Any] = answer.json()
        return body


def _tell(made: Demo, as_json: bool, nodes: Sequence[dict[str, Any]] = ()) -> None:
    for reason in made.left_out:
        note(f"left out: {reason}")
    if as_json:
        users = [
            {"username": one.user.username, "password": PASSWORD, "id": one.user.id} for one in made.people
        ]
        told: dict[str, Any] = {"url": made.url, "posts": made.posts, "people": users}
        print_json({**told, "nodes": nodes} if nodes else told)
        sys.stdout.flush()
        return
    rows = [(one.user.username, PASSWORD, one.user.id) for one in made.people]
    print_table(("username", "password", "id"), rows)
    sys.stdout.flush()
    name = PEOPLE[0]
    note(
        f"""
  {made.posts} post{"" if made.posts == 1 else "s"} at {made.url}    the API: {made.url}/docs

  Next, in another terminal: sign in and look at a feed
    {called()} login {name} --url {made.url}
    {called()} feed
"""
    )
