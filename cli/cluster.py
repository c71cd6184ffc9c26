"""`heliograph cluster …`: make a cluster of a node, let others join, see how it stands, look after it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from cli.client import AdminClient, Target, admin, data_option, target_options
from cli.network import is_loopback
from cli.output import (
    FAILED,
    Failure,
    called,
    fail,
    json_option,
    note,
    print_fields,
    print_json,
    print_table,
    progress,
    size,
)

PATH: Final = "/v1/admin/cluster"
WATCH_S: Final = 2.0  # between two looks of --watch
HOURS: Final = 24.0
ID_SHOWN: Final = 8  # characters of a node's id, as commands take it back
DIFFERENT_SHOWN: Final = 20
REFUSED_SHOWN: Final = 10


@click.group()
def cluster() -> None:
    """Nodes that hold the same data, and survive each other's deaths.

    Begin with `heliograph cluster init` on a running node, then `heliograph cluster invite`, and on another
    machine `heliograph node run --cluster HOST:PORT --join TOKEN`.
    """


def watch_option(command: Any) -> Any:
    """`--watch`, as the parameter `watch`."""
    return click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")(
        command
    )


def _shown(
    target: Target, path: str, as_json: bool, watch: bool, show: Callable[[Any], None]
) -> dict[str, Any]:
    """What the node says, once or until Ctrl-C; the last of it."""
    found: dict[str, Any] = {}
    while True:
        try:
            with admin(target) as client:
                found = client.get(path, dict)
        except Failure as failure:
            if not watch or failure.exit_code == FAILED:
                raise
            note(failure.message)  # it may come back: that is what one watches for
        else:
            if watch and not as_json:
                click.clear()
            (print_json if as_json else show)(found)
        if not watch:
            return found
        try:
            time.sleep(WATCH_S)
        except KeyboardInterrupt:
            return found


# --- how it stands -------------------------------------------------------------------------------------
@cluster.command("status")
@target_options
@json_option
@watch_option
def status(target: Target, as_json: bool, watch: bool) -> None:
    """How the cluster stands: who is heard, whether writes are taken, what is behind.

    Exit code 1 if something is wrong.
    """
    found = _shown(target, f"{PATH}/status", as_json, watch, _show_status)
    if not found["healthy"]:
        raise SystemExit(FAILED)


def _show_status(found: dict[str, Any]) -> None:
    if found["alone"]:
        print_fields({"node": found["node_id"], "cluster": "none: this node is alone"})
        note(f"`{called()} cluster init` makes a cluster of it")
        return
    print_fields(
        {
            "cluster": found["cluster_id"],
            "nodes": f"{found['heard']} of {found['nodes']} heard",
            "writes": found["writes"],
            "groups": f"{found['groups']}, {found['groups_without_leader']} without a leader",
            "replicas behind": found["replicas_behind"],
            "still to be moved": found["changing"],
        }
    )
    print_table(
        ("node", "address", "heard", "leads", "votes in", "behind", "disk free", "clock", ""),
        [
            (
                one["node_id"][:ID_SHOWN],
                one["address"],
                one["heard"],
                one["leads"],
                one["votes"],
                one["behind"],
                size(one["disk_free_bytes"]) if one["heard"] else "",
                _clock(one) if one["heard"] else "",
                "this one" if one["node_id"] == found["node_id"] else one["full"] and "FULL",
            )
            for one in found["members"]
        ],
    )
    for word in found["words"]:
        note(word)
    if found["healthy"]:
        note("all is well")


def _clock(member: dict[str, Any]) -> str:
    off = member["clock_off_ms"]
    return f"{off:+d} ms" if off else "even"


@cluster.command("members")
@target_options
@json_option
@watch_option
def members(target: Target, as_json: bool, watch: bool) -> None:
    """The nodes of the cluster."""

    def show(found: dict[str, Any]) -> None:
        print_table(
            ("node", "address", "zone", "weight", "boots", "level", "joined", "state"),
            [
                (
                    one["node_id"],
                    one["address"],
                    one["zone"],
                    one["weight"],
                    one["boot"],
                    one["level"],
                    one["joined_at"],
                    one["state"],
                )
                for one in found["members"]
            ],
            empty="this node is alone",
        )

    _shown(target, f"{PATH}/members", as_json, watch, show)


@cluster.command("partitions")
@target_options
@json_option
@watch_option
def partitions(target: Target, as_json: bool, watch: bool) -> None:
    """Every partition: who leads it, who votes, who learns, and how far this node's replica is."""

    def show(found: dict[str, Any]) -> None:
        print_table(
            ("partition", "leader", "term", "voters", "learners", "applied here", "behind"),
            [
                (
                    "meta" if one["partition"] == found["meta"] else one["partition"],
                    one["leader"][:ID_SHOWN] or "NONE",
                    one["term"],
                    _ids(one["voters"]),
                    _ids(one["learners"]),
                    one["applied"],
                    _ids(one["behind"]),
                )
                for one in found["partitions"]
            ],
        )

    _shown(target, f"{PATH}/partitions", as_json, watch, show)


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _ids(nodes: list[str]) -> str:
    return " ".join(node[:ID_SHOWN] for node in nodes)


# --- making it -----------------------------------------------------------------------------------------
@cluster.command("init")
@target_options
@json_option
def init(target: Target, as_json: bool) -> None:
    """Make a running node, with its data, the first of a cluster. It opens its peer listener; nothing
    stops."""
    with admin(target) as client:
        found: dict[str, Any] = client.post(f"{PATH}/init", dict)
    if as_json:
        print_json(found)
        return
    print_fields(
        {"cluster": found["cluster_id"], "node": found["node_id"], "peers reach it at": found["address"]}
    )
    if is_loopback("//" + found["address"]):
        note(
            "only nodes on this machine reach it there; for others, start it again with --cluster HOST:PORT "
            "as they see it"
        )
    note(f"`{called()} cluster invite` lets another node join")


@cluster.command("invite")
@click.option("--hours", default=HOURS, show_default=True, type=click.FloatRange(0.01, 24 * 30))
@target_options
@json_option
def invite(hours: float, target: Target, as_json: bool) -> None:
    """Print a token with which one node may join, once. It is a secret: whoever has it gets all data."""
    with admin(target) as client:
        found: dict[str, Any] = client.post(f"{PATH}/invitations", dict, {"hours": hours})
    if as_json:
        print_json(found)
        return
    click.echo(found["token"])
    note(
        f"good for one node until {found['expires_at']}. On the other machine:\n"
        f"  {called()} node run --cluster HOST:PORT --join TOKEN"
    )


@cluster.command("revoke")
@click.argument("node")
@target_options
@json_option
def revoke(node: str, target: Target, as_json: bool) -> None:
    """Remove a node for ever, dead or alive: its certificate is refused from now on.

    NODE is the beginning of its id, or its address. Its replicas are taken over by the others; a node that
    lives ends itself when it hears of it.
    """
    with admin(target) as client:
        found: dict[str, Any] = client.post(f"{PATH}/members/{_named(client, node)}/revoke", dict)
    if as_json:
        print_json(found)
    else:
        note(f"{found['node_id']} is no member any more; `{called()} cluster status` shows who takes over")


@cluster.command("transfer")
@click.argument("partition", required=False)
@click.argument("node", required=False)
@click.option("--all", "all_of_them", is_flag=True, help="Every partition in which it votes.")
@target_options
@json_option
def transfer(
    partition: str | None, node: str | None, all_of_them: bool, target: Target, as_json: bool
) -> None:
    """Give the leadership of a partition (a number, or `meta`) to a node.

    `transfer PARTITION NODE`, or `transfer --all NODE`, as before work on the other machines. It stays there
    for ten minutes; then leaders spread evenly again.
    """
    if all_of_them:
        if partition is None or node is not None:
            raise click.UsageError("with --all, name the node alone")
        partition, node = None, partition
    elif partition is None or node is None:
        raise click.UsageError("name a partition and a node, or --all and a node")
    if partition is not None and partition != "meta" and not partition.isdecimal():
        raise click.UsageError(f"{partition!r} is no partition: a number, or `meta`")
    with admin(target) as client:
        wanted = {"node": _named(client, node or ""), "partition": partition}
        found: dict[str, Any] = client.post(f"{PATH}/transfer", dict, wanted)
    if as_json:
        print_json(found)
    else:
        for refused in found["refused"][:REFUSED_SHOWN]:
            note(f"partition {refused['partition']}: {refused['why']}")
        if (more := len(found["refused"]) - REFUSED_SHOWN) > 0:
            note(f"and {more} more partitions; try again for those that are being led anew")
        count = found["transferred"]
        note(f"{count} leadership{' is' if count == 1 else 's are'} handed over")
    if found["refused"]:
        raise SystemExit(FAILED)


def _named(client: AdminClient, name: str) -> str:
    """The id of the node that a person means. Raises Failure."""
    members: list[dict[str, Any]] = client.get(f"{PATH}/members", dict)["members"]
    found = [one["node_id"] for one in members if one["address"] == name or one["node_id"] == name]
    if not found and name:
        found = [one["node_id"] for one in members if one["node_id"].startswith(name.lower())]
    if len(found) != 1:
        known = ", ".join(f"{one['node_id'][:ID_SHOWN]} ({one['address']})" for one in members)
        what = f"{name!r} names {len(found)} nodes" if found else f"{name!r} names no node"
        fail(f"{what}; there are {known or 'none: this node is alone'}")
    return str(found[0])


# --- settings ------------------------------------------------------------------------------------------
@cluster.group("settings")
def settings() -> None:
    """Settings of the whole cluster."""


@settings.command("get")
@click.argument("name", required=False)
@target_options
@json_option
def get_settings(name: str | None, target: Target, as_json: bool) -> None:
    """All of them, or one."""
    with admin(target) as client:
        found: list[dict[str, Any]] = client.get(f"{PATH}/settings", dict)["settings"]
    chosen = [one for one in found if name in (None, one["name"])]
    if not chosen:
        fail(f"there is no {name}; there are {', '.join(one['name'] for one in found)}")
    if as_json:
        print_json(chosen)
    else:
        rows = [(one["name"], one["value"], one["default"], one["meaning"]) for one in chosen]
        print_table(("setting", "value", "default", "meaning"), rows)


@settings.command("set")
@click.argument("name")
@click.argument("value")
@target_options
def set_setting(name: str, value: str, target: Target) -> None:
    """Change one, at once and on all nodes. An empty value puts the default back."""
    with admin(target) as client:
        client.post(f"{PATH}/settings", type(None), {"name": name, "value": value})
    note(f"{name} is {value or 'as by default'}")


# --- looking after it ----------------------------------------------------------------------------------
@cluster.command("repair")
@target_options
@json_option
def repair(target: Target, as_json: bool) -> None:
    """Let every node look now for blobs that it should have and has not, and fetch them."""
    _started(target, "repair", as_json)


@cluster.command("scrub")
@target_options
@json_option
def scrub(target: Target, as_json: bool) -> None:
    """Let every node read all its blobs now; what is damaged goes to quarantine and is fetched again."""
    _started(target, "scrub", as_json)


def _started(target: Target, what: str, as_json: bool) -> None:
    with admin(target) as client:
        found: dict[str, Any] = client.post(f"{PATH}/{what}", dict)
    if as_json:
        print_json(found)
    else:
        for one in found["unheard"]:
            note(f"{one['node_id'][:ID_SHOWN]} ({one['address']}) was not heard: {one['why']}")
        note(f"{what} begins on {_nodes(found['begun'])}")
    if found["unheard"]:
        raise SystemExit(FAILED)


@cluster.command("digest")
@target_options
@json_option
def digest(target: Target, as_json: bool) -> None:
    """Compare all replicas, byte for byte.

    Each partition is read whole by each of its replicas, in the thread that writes it: others of its shard
    wait meanwhile, some 10 ms for each 100,000 rows. Exit code 1 if replicas differ.
    """
    with admin(target) as client:
        found: dict[str, Any] = client.post(f"{PATH}/digest", dict)
    if as_json:
        print_json(found)
    else:
        for one in found["different"][:DIFFERENT_SHOWN]:
            note(f"partition {one['partition']} at {one['index']}: {one['digests']}")
        for one in found["unheard"]:
            note(f"partition {one['partition']}: {one['why']}")
        note(
            f"{found['compared']} partitions compared on {_nodes(found['replicas'])} in "
            f"{found['seconds']:.1f} s: {len(found['different'])} differ"
        )
    if found["different"] or found["unheard"]:
        raise SystemExit(FAILED)


@cluster.command("recover")
@data_option
@click.option("--accept-data-loss", is_flag=True, help="Do it; without, only say what may be lost.")
@json_option
def recover(data: Path, accept_data_loss: bool, as_json: bool) -> None:
    """Go on with one stopped node when the majority of its cluster is lost for ever.

    First it says what may be lost, and changes nothing. With --accept-data-loss the node on DATA becomes the
    only member of its cluster; all others are revoked and can never come back, and new ones may be invited.
    Choose the node that has most: with the latest "newest write".
    """
    import msgspec

    from node import recovery
    from storage.directory import DirectoryDamaged, DirectoryForeign, DirectoryInUse, DirectoryTooNew
    from storage.journal import JournalDamaged, JournalFull
    from storage.shard import UNREADABLE

    try:
        plan = recovery.plan(data)
        if not as_json:
            _show_plan(plan)
        if not accept_data_loss or not plan.needed:
            if as_json:
                print_json(msgspec.structs.asdict(plan))
            elif plan.needed:
                note("nothing was changed; --accept-data-loss does it")
            return
        with progress() as bar:
            done = recovery.recover(data, now=time.time(), tell=bar.tell)
    except DirectoryInUse as wrong:
        fail(f"{wrong}: stop it first")
    except (
        *(DirectoryDamaged, DirectoryForeign, DirectoryTooNew),
        *(JournalDamaged, JournalFull, OSError, *UNREADABLE),
    ) as wrong:
        fail(str(wrong))
    if as_json:
        print_json(msgspec.structs.asdict(done))
    else:
        note(f"node {done.node} is alone in its cluster: {done.removed} members are revoked. Start it again")


def _show_plan(plan: Any) -> None:
    if not plan.needed:
        note(f"node {plan.node} is the only member of all its groups: there is nothing to recover from")
        return
    open_entries = sum(one.last - one.committed for one in plan.partitions if one.last > one.committed)
    when = (
        "never"
        if plan.last_at_ms is None
        else datetime.fromtimestamp(plan.last_at_ms / 1000, UTC).isoformat()
    )
    print_fields(
        {
            "data": plan.data,
            "node": plan.node,
            "newest write": when,
            "partitions": len(plan.partitions),
            "not known to be committed": f"{open_entries} commands: they are kept",
            "half-filled partitions": sum(one.installing for one in plan.partitions),
        }
    )
    print_table(
        ("lost for ever", "address", "zone"), [(one.node, one.address, one.zone) for one in plan.others]
    )
    note(
        "what the lost nodes acknowledged and this one never got is lost, and messages between partitions "
        "that were under way may be"
    )
