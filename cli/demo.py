"""`heliograph demo`: a throw-away node with twelve people who post, follow, like and comment.

Everything goes through the HTTP API, as any client would do it, with limits raised for the occasion. The
node's data lie in a temporary folder and go when it ends.
"""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import httpx
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.drawings import landscape

PEOPLE: Final = (
    "ada", "bruno", "chiara", "dmitri", "elif", "farid", "greta", "hana", "imre", "joana", "kofi", "lena",
)  # fmt: skip
PASSWORD: Final = "demo-password"
DRAWN_PER_PERSON: Final = 2
PHOTOS_MAX: Final = 120  # of the folder
FOLLOWS_EACH: Final = 7
CAPTIONS: Final = (
    "Morning light #sunrise", "On the way home", "Nobody around #quiet", "After the rain",
    "The long road #hills", "Found this by chance", "Blue hour #dusk", "Worth getting up for", "Again and again #favourite",
)  # fmt: skip
WORDS: Final = (
    "Lovely!",
    "Where is this?",
    "What a light.",
    "I was there last year.",
    "This one is my favourite.",
)
ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".heic"})
LIMITS: Final = (
    "limits.sign_up_count=1000", "limits.sign_in_count=1000", "limits.uploads_count=10000",
    "limits.writes_count=100000", "limits.reads_count=100000",
)  # fmt: skip
SEED: Final = 12
REQUEST_S: Final = 60.0


@click.command("demo")
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photographs to post; without it, drawn ones.",
)
@click.option(
    "--http", "address", default="127.0.0.1:8000", show_default=True, help="HOST:PORT to listen on."
)
@click.option("--once", is_flag=True, help="End when everything is posted, instead of serving on.")
def demo(photos: Path | None, address: str, once: bool) -> None:
    """Start a throw-away node and fill it with twelve people and their pictures."""
    from node.app import run_node
    from node.logs import set_up
    from node.settings import SettingsError, load

    host, _, port = address.rpartition(":")
    try:
        settings = load(flags=[f"http.host={host}", f"http.port={port}", "admin.port=0", *LIMITS])
    except SettingsError as wrong:
        raise click.UsageError(str(wrong)) from None
    set_up(form="console", level="warning")
    console = Console(stderr=True)
    pictures = list(_pictures(photos))
    if not pictures:
        raise click.UsageError(f"{photos} has no photographs")

    async def run(folder: Path) -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run_node, folder, settings, stop)
            url = addresses.http.url
            people = await _fill(url, pictures, console)
            _print_sign_ins(console, url, people)
            if once:
                stop.set()
            else:
                console.print("Ctrl-C ends the node and removes its data.", style="dim")

    with tempfile.TemporaryDirectory(prefix="heliograph-demo-") as folder, _quiet_end():
        trio.run(run, Path(folder))


@contextmanager
def _quiet_end() -> Iterator[None]:
    """Ctrl-C is how a demo ends, not an error."""
    try:
        yield
    except KeyboardInterrupt:
        return
    except BaseExceptionGroup as group:
        _, rest = group.split(KeyboardInterrupt)
        if rest is not None:
            raise rest from None


def _pictures(photos: Path | None) -> Iterator[tuple[str, bytes]]:
    if photos is None:
        for seed in range(len(PEOPLE) * DRAWN_PER_PERSON):
            yield f"landscape {seed}", landscape(seed)
        return
    files = sorted(path for path in photos.iterdir() if path.suffix.lower() in ENDINGS)
    for path in files[:PHOTOS_MAX]:
        yield path.stem.replace("_", " "), path.read_bytes()


async def _fill(url: str, pictures: list[tuple[str, bytes]], console: Console) -> dict[str, dict[str, Any]]:
    """Sign everybody up, let them follow, post, like and comment. Raises httpx.HTTPError."""
    rng = random.Random(SEED)
    steps = len(PEOPLE) * 2 + len(pictures) * 2
    columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    people: dict[str, dict[str, Any]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_S) as client:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("twelve people sign up", total=steps)
            for name in PEOPLE:
                wanted = {"username": name, "password": PASSWORD, "display_name": name.capitalize()}
                people[name] = await _call(client, "POST", "/v1/users", json=wanted)
                progress.advance(task)
            progress.update(task, description="they follow each other")
            for name in PEOPLE:
                others = [other for other in PEOPLE if other != name]
                for other in rng.sample(others, FOLLOWS_EACH):
                    wanted = {"followed_id": people[other]["user"]["id"]}
                    await _call(client, "POST", "/v1/follows", people[name], json=wanted)
                progress.advance(task)
            progress.update(task, description="they post")
            posts = []
            for number, (title, picture) in enumerate(pictures):
                author = PEOPLE[number % len(PEOPLE)]
                form = {"caption": rng.choice(CAPTIONS), "alt": title}
                made = await _call(
                    client, "POST", "/v1/photos", people[author], files={"photo": picture}, data=form
                )
                posts.append(made["photo_id"])
                progress.advance(task)
            progress.update(task, description="they like and comment")
            await _complete(client, people[PEOPLE[0]], posts)
            for post in posts:
                for name in rng.sample(PEOPLE, rng.randrange(2, 9)):
                    await _call(client, "POST", f"/v1/posts/{post}/like", people[name])
                for name in rng.sample(PEOPLE, rng.randrange(0, 3)):
                    words = {"text": rng.choice(WORDS)}
                    await _call(client, "POST", f"/v1/posts/{post}/comments", people[name], json=words)
                progress.advance(task)
    return people


async def _complete(client: httpx.AsyncClient, who: dict[str, Any], posts: list[str]) -> None:
    """Wait until everybody can see the posts: until then nobody but the author can like them."""
    for post in posts:
        while (await client.get(f"/v1/posts/{post}", headers=_bearer(who))).status_code == 404:
            await trio.sleep(0.1)


async def _call(
    client: httpx.AsyncClient, method: str, path: str, who: dict[str, Any] | None = None, **request: Any
) -> dict[str, Any]:
    answer = await client.request(method, path, headers=_bearer(who) if who else None, **request)
    if answer.is_error:
        raise click.ClickException(f"{method} {path}: {answer.status_code} {answer.text}")
    body: dict[str, Any] = answer.json()
    return body


def _bearer(who: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {who['access_token']}"}


def _print_sign_ins(console: Console, url: str, people: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"{url} — browse the API at {url}/docs", title_justify="left")
    for column in ("username", "password", "id"):
        table.add_column(column)
    for name, signed_in in people.items():
        table.add_row(name, PASSWORD, signed_in["user"]["id"])
    console.print(table)
    console.print("Sign in and look at a feed:")
    console.print(f"  heliograph login {PEOPLE[0]} --url {url}", "  heliograph feed", sep="\n", style="bold")
