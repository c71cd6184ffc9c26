"""The composition root: opens a data directory, puts the parts together, runs them, and ends them in order.

From the outside in: the data directory's lock, the replicas (journal and shards), the node's own tasks, the
listeners. They end from the inside out: the leads are handed over while the listeners drain, then the tasks
give back what they hold, then the shards commit, then the lock goes.
"""

import gc
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from cluster.copies.fetching import Fetching
from cluster.copies.placement import Placement
from cluster.copies.repair import Repair
from cluster.copies.scrub import Scrub
from cluster.keys import HEADS, HEADS_PARTITION, META_PARTITION
from cluster.members.meta import MetaMachine
from cluster.members.meta_rows import PublicKey, public_keys
from cluster.partition import StateMachine
from cluster.replicas import Replicas, now_ms
from cluster.reports import Report
from cluster.router import Router
from cluster.shard_writer import WriterSettings
from cluster.snapshots.spool import FOLDER, finish_installs
from node import joining
from node.cluster import Cluster, Listening, listen
from node.conduct import Conduct
from node.feeds.reader import Feeds
from node.feeds.rendering import Renderer
from node.filling import Filling
from node.http.admin import make_admin
from node.http.api import make_api
from node.http.cursors import Cursors
from node.http.limits import Limits, Proxies
from node.http.media import sign_view
from node.http.metrics import Metrics
from node.http.server import Address, Server, check_free
from node.http.tokens import Keyring, Signer, derive, load_secret
from node.logs import get_logger
from node.media.catalogue import Catalogue, blobs_of
from node.media.collection import Collector
from node.media.intake import Intake
from node.media.pool import Pool, PoolSettings, open_pool
from node.media.workshop import Tries, Workshop
from node.operations import REPAIR, SCRUB, Operations
from node.parts import Parts, now_s
from node.passwords import Passwords
from node.room import RoomWatch
from node.service import Service
from node.settings import Settings
from node.social.application import social_machine
from storage.blobs import DIGEST_BYTES, Blobs
from storage.directory import DataDirectory, write_durably
from storage.journal import Journal, JournalDamaged
from storage.shard import Shard, want_shards

log = get_logger("node")

SWITCH_INTERVAL_S: Final = 0.001  # Python's 5 ms would be added to the event loop by every busy writer thread
BLOBS_CHECKED_EVERY_S: Final = 0.5
# A page makes hundreds of short-lived objects and no cycles: collected as often as Python would, they cost a
# fourteenth of a request. 50,000 of them are some 5 MB.
GC_THRESHOLDS: Final = (50_000, 20, 100)
CLUSTER_SECRET: Final = "cluster.secret"
ADMIN_TOKEN: Final = "admin.token"


class Addresses(msgspec.Struct, frozen=True):
    """Where a started node listens."""

    http: Address
    admin: Address


async def run_node(
    data: Path,
    settings: Settings,
    stop: trio.Event,
    token: str | None = None,
    *,
    task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node on `data` until `stop`; with a `token`, one that joins a cluster. Reports its addresses when
    it serves.

    Raises storage.directory.DirectoryInUse and its siblings, storage.journal.JournalDamaged, CannotListen,
    node.joining.CannotJoin and Expelled, and whatever stops a shard.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    with await _directory(data, settings, token) as directory:
        for at in (settings.admin, settings.http):
            await check_free(at.host, at.port)
        async with open_parts(directory, settings, stop) as parts:
            public = Server(make_api(parts), settings.http)
            admin_settings = msgspec.structs.replace(
                settings.http, tls_cert="", tls_key="", ready_delay_s=0.0
            )
            admin = Server(make_admin(parts, public), admin_settings)
            async with trio.open_nursery() as listeners:
                admin_stop = trio.Event()
                admin_at = await listeners.start(
                    lambda task_status: admin.run(
                        host=settings.admin.host,
                        port=settings.admin.port,
                        shutdown=admin_stop,
                        task_status=task_status,
                    )
                )
                http_at = await listeners.start(
                    lambda task_status: public.run(
                        host=settings.http.host,
                        port=settings.http.port,
                        shutdown=stop,
                        task_status=task_status,
                    )
                )
                log.info("serving", http=http_at.url, admin=admin_at.url, node=directory.identity.node_id)
                write_addresses(directory, Addresses(http_at, admin_at))
                task_status.started(Addresses(http_at, admin_at))
                await stop.wait()
                log.info("stopping")
                await parts.conduct.leave()  # while what is under way drains
                admin_stop.set()
        log.info("stopped")


async def _directory(data: Path, settings: Settings, token: str | None) -> DataDirectory:
    if token is not None and (begun := await joining.begin(data, token, settings, now_s())) is not None:
        return begun
    return DataDirectory.open(data, now=now_s(), shard_count=settings.storage.shards)


@asynccontextmanager
async def open_parts(directory: DataDirectory, settings: Settings, stop: trio.Event) -> AsyncIterator[Parts]:
    """A running node without listeners for clients: for `run_node`, for tests and for what works in process.
    One that belongs to a cluster listens to its peers; one that is still joining is admitted first."""
    listening = await listen(settings.cluster) if joining.is_pledged(directory) else None
    if listening is not None:
        secret = directory.keys / CLUSTER_SECRET
        await joining.admitted(directory, listening.address, settings.cluster, secret)
    replicas, shards, stores = await trio.to_thread.run_sync(_open_replicas, directory, settings)
    with stores:  # closed last, when no task and no thread is left that reads or writes
        async with _running_parts(directory, settings, stop, replicas, shards, listening) as parts:
            yield parts


@asynccontextmanager
async def _running_parts(
    directory: DataDirectory,
    settings: Settings,
    stop: trio.Event,
    replicas: Replicas,
    shards: list[Shard],
    listening: Listening | None,
) -> AsyncIterator[Parts]:
    async with trio.open_nursery() as outer:
        await outer.start(replicas.run)
        blobs = Blobs(directory.blobs, directory.staging, directory.quarantine)
        if settings.storage.quota_bytes:  # which is judged by it
            await trio.to_thread.run_sync(blobs.count)
        room = RoomWatch(directory, settings.storage, lambda: _used_bytes(replicas, blobs))
        await trio.to_thread.run_sync(room.look)
        router = Router(replicas, room.full)
        async with open_pool(_pool_settings(settings)) as pool, trio.open_nursery() as tasks:
            parts = _make_parts(
                directory, settings, replicas, shards, Service(router), blobs, pool, room, stop, listening
            )
            await tasks.start(parts.filling.run)
            await tasks.start(parts.operations.run)
            await tasks.start(parts.cluster.run)
            tasks.start_soon(parts.conduct.run)
            homes = range(parts.partitions)
            tasks.start_soon(room.run)
            tasks.start_soon(_end_with_blobs, blobs)
            tasks.start_soon(_count, blobs)
            await tasks.start(parts.fetching.run)
            await tasks.start(parts.placement.run)
            tasks.start_soon(parts.repair.run)
            tasks.start_soon(parts.scrub.run)
            tasks.start_soon(parts.workshop.run, homes)
            tasks.start_soon(parts.collector.run, homes)
            yield parts
            tasks.cancel_scope.cancel()
        outer.cancel_scope.cancel()


def _open_replicas(directory: DataDirectory, settings: Settings) -> tuple[Replicas, list[Shard], ExitStack]:
    """The groups of this node, its shards, and what closes them and the journal (with a last mark)."""
    with ExitStack() as opened:
        replicas, shards = _recovered(directory, settings, opened)
        return replicas, shards, opened.pop_all()


def _recovered(
    directory: DataDirectory, settings: Settings, opened: ExitStack
) -> tuple[Replicas, list[Shard]]:
    machine = social_machine()
    machines: dict[int, StateMachine] = dict.fromkeys(range(directory.identity.partition_count), machine)
    machines[META_PARTITION] = MetaMachine()
    paths = [directory.shards / f"{number:02}" for number in range(directory.identity.shard_count)]
    want_shards(paths, directory.journal)
    shards = [
        opened.enter_context(closing(Shard(path, map_bytes=settings.storage.map_bytes))) for path in paths
    ]
    for partition in finish_installs(shards, directory.staging / FOLDER):
        log.info("snapshot installed", partition=partition)
    if joining.is_pledged(directory):
        _want_journal(directory.journal, shards)
    writer = WriterSettings(settings.storage.commit_delay_ms / 1000, settings.storage.commit_rows)
    journal = opened.enter_context(
        closing(Journal.open(directory.journal, segment_bytes=settings.storage.segment_bytes))
    )
    replicas = Replicas(
        journal,
        shards,
        machines,
        writer,
        me=directory.node_id,
        boot=directory.boots,
        founder=joining.is_founder(directory),
    )
    entries = replicas.recover()
    log.info("recovered", entries=entries, boot=directory.boots)
    return replicas, shards


def _want_journal(path: Path, shards: list[Shard]) -> None:
    """Raise JournalDamaged if there is none though a shard has state: this member would go on without its
    votes, and could give another in the same term (law 5). What is restored from a backup is no member."""
    if any(path.glob("*.log")):
        return
    for shard in shards:
        with shard.reading() as rows:
            if next(HEADS.scan(rows, HEADS_PARTITION), None) is not None:
                raise JournalDamaged(
                    f"{path} holds no journal, but there is state: what this node has voted and acknowledged "
                    "is lost. Revoke it, and let it join anew with an empty directory"
                )


def _make_parts(
    directory: DataDirectory,
    settings: Settings,
    replicas: Replicas,
    shards: list[Shard],
    service: Service,
    blobs: Blobs,
    pool: Pool,
    room: RoomWatch,
    stop: trio.Event,
    listening: Listening | None,
) -> Parts:
    secret = load_secret(directory.keys / CLUSTER_SECRET)
    identity = directory.identity
    catalogue = Catalogue(replicas)
    fetching = Fetching(
        directory.node_id, blobs, catalogue, lambda partition: replicas.configuration(partition).members
    )
    placement = Placement(
        directory.node_id, blobs, fetching, catalogue.home, replicas.configuration, room.full
    )
    intake = Intake(service, blobs, placement)
    worker = f"{identity.node_id}/{directory.boots}"
    workers = settings.media.workers or 2
    workshop = Workshop(
        service, intake, blobs, fetching, pool, directory.work, worker, workers, _tries(settings)
    )
    collector = Collector(service, blobs, catalogue)
    repair = Repair(blobs, fetching, catalogue, now_ms)
    signer = Signer(derive(secret, "urls"))
    renderer = Renderer(partial(sign_view, signer), settings.http.public_url)
    feeds = Feeds(settings.feed, renderer, shards=identity.shard_count, rows_bytes=settings.feed.rows_bytes)
    replicas.on_rows(feeds.hot.changed)
    replicas.on_changes(lambda changes: feeds.changed(changes, now_ms()))
    replicas.on_rows(workshop.rows_changed)
    replicas.on_rows(collector.rows_changed)
    replicas.on_standing(workshop.standing_changed)
    replicas.on_rows(lambda keys: repair.note(blobs_of(keys)) if fetching.has_peers else None)
    replicas.on_installed(lambda _: feeds.replaced())
    replicas.on_installed(lambda _: repair.hurry())
    replicas.on_installed(lambda _: collector.look_soon())
    scrub = Scrub(blobs, fetching, now_ms, secrets.token_bytes(DIGEST_BYTES))
    keyring = Keyring(
        directory.keys / "tokens",
        node_id=identity.node_id,
        token_s=settings.accounts.access_token_s,
        cache_entries=settings.accounts.token_cache_entries,
        now=now_s(),
        others=partial(_public_keys, service),
    )
    router = service.router
    conduct = Conduct(directory.node_id, replicas, service.read, identity.partition_count)
    filling = Filling(directory.node_id, replicas, shards, directory.staging)
    orders = {REPAIR: repair.now, SCRUB: scrub.now}
    operations = Operations(
        directory, replicas, router, conduct, partial(_said, room, blobs, repair, scrub), orders
    )
    replicas.carry = router.deliver
    attached = (
        *(router.join, fetching.attach, placement.attach, repair.attach, workshop.attach, filling.attach),
        operations.attach,
    )
    cluster = Cluster(
        directory,
        settings.cluster,
        replicas,
        router,
        secret,
        (*attached, conduct.attach),
        keyring.public_keys,
        listening,
    )
    cluster.on_members(conduct.hurry)
    return Parts(
        settings=settings,
        directory=directory,
        replicas=replicas,
        service=service,
        blobs=blobs,
        fetching=fetching,
        placement=placement,
        repair=repair,
        scrub=scrub,
        cluster=cluster,
        conduct=conduct,
        filling=filling,
        operations=operations,
        intake=intake,
        pool=pool,
        workshop=workshop,
        collector=collector,
        room=room,
        feeds=feeds,
        passwords=Passwords(settings.accounts),
        keyring=keyring,
        signer=signer,
        cursors=Cursors(derive(secret, "cursors")),
        limits=Limits(settings.limits),
        proxies=Proxies(settings.http.trusted_proxies),
        metrics=Metrics(),
        name_key=derive(secret, "names"),
        retry_key=derive(secret, "retries"),
        partitions=identity.partition_count,
        admin_token=_admin_token(directory),
        stopping=stop,
    )


def _said(room: RoomWatch, blobs: Blobs, repair: Repair, scrub: Scrub, report: Report) -> Report:
    """What the parts of this node have to add to what it says of itself."""
    repaired, scrubbed = repair.statistics(), scrub.statistics()
    return msgspec.structs.replace(
        report,
        full=getattr(room.verdict, "reason", ""),
        disk_free_bytes=room.disk.free_bytes,
        used_bytes=room.used_bytes,
        blobs_wanted=repaired.last_missing,
        blobs_damaged=blobs.statistics().damaged,
        repairing=repaired.is_running,
        repaired_ms=repaired.last_ended_ms,
        scrubbing=scrubbed.is_running,
        scrubbed_ms=scrubbed.last_ended_ms,
    )


def _public_keys(service: Service) -> dict[str, PublicKey]:
    with service.read() as rows:
        return public_keys(rows)


async def _count(blobs: Blobs) -> None:
    """A million files take ten seconds, for which no start waits without need."""
    if not blobs.statistics().counted:
        await trio.to_thread.run_sync(blobs.count, abandon_on_cancel=True)


async def _end_with_blobs(blobs: Blobs) -> None:
    """Raises storage.blobs.BlobsFailed once a sync of blobs has failed: the process must end then, though
    the request that met it got its answer."""
    while True:
        blobs.check()
        await trio.sleep(BLOBS_CHECKED_EVERY_S)


def _used_bytes(replicas: Replicas, blobs: Blobs) -> int:
    statistics = replicas.statistics()
    shards = sum(shard.used_bytes for shard in statistics.shards)
    return statistics.journal.bytes + shards + blobs.statistics().bytes


def _admin_token(directory: DataDirectory) -> str:
    path = directory.keys / ADMIN_TOKEN
    if not path.exists():
        write_durably(path, secrets.token_urlsafe(32).encode())
    return path.read_text().strip()


def _tries(settings: Settings) -> Tries:
    return Tries(settings.media.job_attempts_max, int(settings.media.job_backoff_s * 1000))


def _pool_settings(settings: Settings) -> PoolSettings:
    media = settings.media
    defaults = PoolSettings()
    return msgspec.structs.replace(
        defaults,
        workers=media.workers or defaults.workers,
        deadline_s=media.job_wall_s,
        cpu_s=max(1, int(media.job_cpu_s)),
        memory_bytes=media.job_memory_bytes,
    )


def write_addresses(directory: DataDirectory, addresses: Addresses) -> None:
    """Leave word for the CLI where this node listens; it goes with the next start."""
    path = directory.keys / "addresses.json"
    write_durably(path, msgspec.json.encode({"http": addresses.http.url, "admin": addresses.admin.url}))
