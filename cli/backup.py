"""`heliograph backup …`: create asks the running node; verify and restore work on files."""

import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from cli.client import Target, admin, data_option, target_options
from cli.output import called, fail, json_option, note, print_fields, print_json, print_table, progress, size


@click.group()
def backup() -> None:
    """Create, verify and restore backups."""


def passphrase_option(command: Any) -> Any:
    return click.option(
        "--passphrase-file",
        type=click.File("r"),
        help="A file whose first line is the passphrase (- for standard input); else you are asked.",
    )(command)


def ask_passphrase(file: Any, *, confirm: bool) -> str:
    if file is not None:
        line: str = file.readline().rstrip("\r\n")
        if not line:
            raise click.UsageError("--passphrase-file: the first line is empty")
        return line
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for a passphrase: use --passphrase-file")
    typed: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return typed


@backup.command("create")
@click.argument("destination", type=click.Path(path_type=Path))
@passphrase_option
@target_options
@json_option
def create(target: Target, destination: Path, passphrase_file: Any, as_json: bool) -> None:
    """Back up a running node into DESTINATION, which holds each blob once for all its backups.

    The passphrase seals the cluster's secret; without it a backup cannot be restored.
    """
    from node.backup import Advance, BackupLine, Failed, Made

    with admin(target) as client:
        passphrase = ask_passphrase(passphrase_file, confirm=True)
        body = {"destination": str(destination.absolute()), "passphrase": passphrase}
        made: Made | None = None
        with progress() as bar:
            for line in client.lines("/v1/admin/backups", body, BackupLine):
                match line:
                    case Advance(what, done, total):
                        bar.tell(what, done, total)
                    case Made():
                        made = line
                    case Failed(reason):
                        fail(reason)
    if made is None:
        fail("the node ended before the backup was made")
    if as_json:
        print_json(msgspec.structs.asdict(made))
    else:
        shown = {"backup": made.path, "blobs": f"{made.blobs}, {made.blobs_new} of them new"}
        print_fields({**shown, "written": size(made.bytes_new), "took": f"{made.seconds:.1f} s"})
    if made.missing_count:
        fail(f"{made.missing_count} blobs were not there whole; the manifest names them")


@backup.command("list")
@click.argument("destination", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
def list_backups(destination: Path, as_json: bool) -> None:
    """The backups in DESTINATION, oldest first."""
    from node.backup import BackupError, backups_in, read_manifest

    try:
        found = [(folder, read_manifest(folder)) for folder in backups_in(destination)]
    except BackupError as wrong:
        fail(str(wrong))
    if as_json:
        print_json([{"path": str(path), **_described(manifest)} for path, manifest in found])
        return
    rows = [(path.name, f"{it.began[:19]}Z", it.blobs, size(it.blob_bytes)) for path, it in found]
    print_table(("backup", "made", "blobs", "their bytes"), rows, empty=f"{destination} holds none")


@backup.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Read a backup (PATH, or the newest in a destination) and compare every hash. Exit code 1 on damage."""
    from node.backup import BackupError
    from node.restore import choose
    from node.restore import verify as verify_backup

    try:
        with progress() as bar:
            found = verify_backup(choose(path), bar.tell)
    except (BackupError, OSError) as wrong:
        fail(str(wrong))
    if as_json:
        print_json(msgspec.structs.asdict(found))
    else:
        for finding in found.damage:
            note(finding)
        shown = {"backup": found.path, "files": found.files, "blobs": found.blobs, "read": size(found.bytes)}
        print_fields({**shown, "damaged": found.damage_count})
    if found.damage_count:
        fail(f"{found.damage_count} files or blobs are missing or damaged")


@backup.command("restore")
@click.argument("path", type=click.Path(path_type=Path))
@passphrase_option
@data_option
@json_option
def restore(path: Path, passphrase_file: Any, data: Path, as_json: bool) -> None:
    """Make a new data directory from a backup (PATH, or the newest in a destination). No node may run there.

    The node that starts on it has a new identity and the data of the backup; accounts sign in again.
    """
    from node.backup import BackupError
    from node.restore import choose
    from node.restore import restore as restore_backup

    passphrase = ask_passphrase(passphrase_file, confirm=False)
    try:
        with progress() as bar:
            made = restore_backup(choose(path), data, passphrase, now=time.time(), tell=bar.tell)
    except (BackupError, OSError) as wrong:
        fail(str(wrong))
    if as_json:
        print_json(msgspec.structs.asdict(made))
    else:
        shown = {"data": made.data, "node": made.node_id, "blobs": f"{made.blobs} ({size(made.bytes)})"}
        print_fields(shown)
        note(f"start it with: {called()} node run --data {made.data}")
    if made.missing_count:
        fail(f"restored, but {made.missing_count} blobs are missing or damaged in the backup")


def _described(manifest: Any) -> dict[str, Any]:
    return {
        name: getattr(manifest, name) for name in ("began", "node_id", "blobs", "blob_bytes", "missing_count")
    }
