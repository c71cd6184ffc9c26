"""`heliograph node run|status|check|compact`."""

from pathlib import Path
from typing import Any

import click

from cli.client import Target, admin, data_option, target_options
from cli.output import fail, json_option, note, print_fields, print_json, progress, size


@click.group()
def node() -> None:
    """Run a node and look after it."""


def _address(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, str] | None:
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isdecimal() or (":" in bare and bare == host):
        raise click.BadParameter(f"{value!r}: write HOST:PORT, for example 127.0.0.1:8000 or [::1]:8000")
    return bare, port


@node.command("run")
@data_option
@click.option("--http", "http", metavar="HOST:PORT", callback=_address, help="The public listener.")
@click.option("--admin", "admin_at", metavar="HOST:PORT", callback=_address, help="The admin listener.")
@click.option("--cluster", "peers", metavar="HOST:PORT", callback=_address, help="The listener for peers.")
@click.option(
    "--zone", metavar="NAME", help="What fails together with this node; nodes are spread over zones."
)
@click.option("--join", "token", metavar="TOKEN", help="Join a cluster, with what its `invite` printed.")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--set", "flags", metavar="KEY=VALUE", multiple=True, help="One setting; may be repeated.")
def run(
    data: Path,
    http: tuple[str, str] | None,
    admin_at: tuple[str, str] | None,
    peers: tuple[str, str] | None,
    zone: str | None,
    token: str | None,
    config: Path | None,
    flags: tuple[str, ...],
) -> None:
    """Run a node on a data directory until SIGINT or SIGTERM.

    With --join, a new directory becomes that of a member of a cluster; once begun, it goes on without the
    token, too. A node of a cluster listens to the others on --cluster.

    Settings come from --set, then HELIOGRAPH_SECTION_KEY in the environment, then --config, then defaults;
    `heliograph config show` lists them.
    """
    from cli.running import run_until_signal

    named = [("http", http), ("admin", admin_at), ("cluster", peers)]
    addresses = [
        flag for section, at in named if at for flag in (f"{section}.host={at[0]}", f"{section}.port={at[1]}")
    ]
    if zone is not None:
        addresses.append(f"cluster.zone={zone}")
    code = run_until_signal(data, [*flags, *addresses], config, token)
    raise SystemExit(code)


@node.command("status")
@target_options
@json_option
def status(target: Target, as_json: bool) -> None:
    """How a running node stands."""
    with admin(target) as client:
        found: dict[str, Any] = client.get("/v1/admin/status", dict)
    if as_json:
        print_json(found)
        return
    for name in [name for name in found if name.endswith("_bytes")]:
        found[name.removesuffix("_bytes")] = size(found.pop(name))
    found["full"] = found["full"] or "no"
    print_fields({name.replace("_", " "): value for name, value in found.items()})


@node.command("check")
@data_option
@json_option
def check(data: Path, as_json: bool) -> None:
    """Read all that a stopped node keeps: is it whole? Changes nothing; exit code 1 on damage."""
    import msgspec

    from node.check import check as check_node
    from storage.directory import DirectoryDamaged, DirectoryForeign, DirectoryInUse, DirectoryTooNew

    try:
        with progress() as bar:
            found = check_node(data, bar.tell)
    except DirectoryInUse as wrong:
        fail(f"{wrong}: stop it first")
    except (DirectoryDamaged, DirectoryForeign, DirectoryTooNew, OSError) as wrong:
        fail(str(wrong))
    if as_json:
        print_json(msgspec.structs.asdict(found))
    else:
        for finding in found.damage:
            note(finding)
        print_fields(
            {
                "data": found.path,
                "node": found.node_id,
                "rows": sum(found.rows.values()),
                "journal": f"{found.journal_entries} commands, {found.journal_ahead} of them to be applied",
                "blobs": f"{found.blobs} ({size(found.blob_bytes)})",
                "ends compared": "yes" if found.at_rest else "no: something was under way, or cannot be read",
                "damage": found.damage_count,
            }
        )
    if found.damage_count:
        count = found.damage_count
        fail(f"{count} finding{'s' * (count != 1)}: restore a backup")


@node.command("compact")
@data_option
@json_option
def compact(data: Path, as_json: bool) -> None:
    """Give back disk that a stopped node's data no longer needs."""
    import msgspec

    from node.compaction import NoRoom
    from node.compaction import compact as compact_node
    from storage.directory import DirectoryDamaged, DirectoryForeign, DirectoryInUse, DirectoryTooNew
    from storage.journal import JournalDamaged, JournalFull
    from storage.shard import UNREADABLE

    try:
        with progress() as bar:
            done = compact_node(data, bar.tell)
    except DirectoryInUse as wrong:
        fail(f"{wrong}: stop it first")
    except (
        *(DirectoryDamaged, DirectoryForeign, DirectoryTooNew),
        *(JournalDamaged, JournalFull, NoRoom, OSError, *UNREADABLE),
    ) as wrong:
        fail(str(wrong))
    if as_json:
        print_json(msgspec.structs.asdict(done))
        return
    shards = f"{size(done.shards_before)} → {size(done.shards_after)}"
    print_fields({"shards": shards, "journal": f"{size(done.journal_before)} → {size(done.journal_after)}"})
