"""Settings: everything an operator may change, parsed and checked once into frozen sections.

A value comes from the first of: `--set SECTION.KEY=VALUE`, the environment (`HELIOGRAPH_SECTION_KEY`), the
TOML file of `--config`, the default. Each part of the node is given its section, never the whole. The one
line behind each value here is what `heliograph config show` prints, so the unit stands in the name or in that
line.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

ENVIRONMENT_PREFIX = "HELIOGRAPH_"
KIB, MIB, GIB = 2**10, 2**20, 2**30

# Variables with the prefix that are not settings: where the CLI finds the node and its sign-in.
NOT_SETTINGS = frozenset({"HELIOGRAPH_URL", "HELIOGRAPH_HOME", "HELIOGRAPH_TOKEN", "HELIOGRAPH_DATA"})


class SettingsError(Exception):
    """A setting that cannot be used; the text names the setting, its source, what is wrong and what would be
    right."""


def _note(why: str, **bounds: Any) -> Meta:
    return Meta(description=why, **bounds)


Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400 * 365)]
Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """The public listener."""

    host: Annotated[str, _note("address to listen on; 127.0.0.1 is this machine only")] = "127.0.0.1"
    port: Annotated[Port, _note("TCP port; 0 takes a free one")] = 8000
    public_url: Annotated[
        str, _note("how clients reach this node, for absolute URLs; empty: as they asked")
    ] = ""
    tls_cert: Annotated[str, _note("file of the TLS certificate chain (PEM); empty: plain HTTP")] = ""
    tls_key: Annotated[str, _note("file of the certificate's private key (PEM)")] = ""
    cors_origins: Annotated[
        tuple[str, ...], _note("origins whose scripts may call the API, or * for all; comma-separated")
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...], _note("addresses or networks whose X-Forwarded-For is believed; comma-separated")
    ] = ()
    connections_max: Annotated[Count, _note("open connections; one more is answered 503 and closed")] = 10_000
    connections_per_address_max: Annotated[
        int, _note("open connections of one address (IPv6: a /64) but trusted proxies; 0: no bound", ge=0)
    ] = 0
    header_bytes_max: Annotated[
        int, _note("bytes of one request's header block; more is answered 431", ge=1024, le=MIB)
    ] = 32 * KIB
    json_bytes_max: Annotated[Bytes, _note("bytes of a JSON body; more is answered 413")] = MIB
    header_s: Annotated[Seconds, _note("seconds for a request's header block from its first byte")] = 10.0
    idle_s: Annotated[Seconds, _note("seconds a connection may wait between requests")] = 60.0
    handshake_s: Annotated[Seconds, _note("seconds for a TLS handshake")] = 10.0
    body_stall_s: Annotated[
        Seconds, _note("seconds in which body_stall_bytes of a body must come, or 408")
    ] = 10.0
    body_stall_bytes: Annotated[Bytes, _note("bytes of a body that must come every body_stall_s seconds")] = (
        8 * KIB
    )
    send_stall_s: Annotated[
        Seconds, _note("seconds for a client to take 64 KiB of an answer, else it is cut")
    ] = 30.0
    ready_delay_s: Annotated[
        float, _note("seconds between /readyz turning 503 and the listener closing", ge=0, le=600)
    ] = 0.0
    graceful_s: Annotated[Seconds, _note("seconds for running requests to end at shutdown")] = 30.0


class Admin(Struct, frozen=True, forbid_unknown_fields=True):
    """The admin listener: metrics and what the CLI asks."""

    host: Annotated[
        str, _note("address to listen on; its token is the only other guard, so keep it local")
    ] = "127.0.0.1"
    port: Annotated[Port, _note("TCP port; 0 takes a free one")] = 8001


class Cluster(Struct, frozen=True, forbid_unknown_fields=True):
    """The peer listener: what the other nodes of a cluster reach. A node without a cluster opens none."""

    host: Annotated[str, _note("address on which other nodes are listened to")] = "127.0.0.1"
    port: Annotated[Port, _note("TCP port of the peer listener; 0 takes a free one at each start")] = 8002
    advertise: Annotated[
        str, _note("HOST:PORT at which other nodes reach this one; empty: host and port as they are")
    ] = ""
    zone: Annotated[
        str,
        _note("what fails together with this node, as a room or a power line; voters are spread over zones"),
    ] = ""
    weight: Annotated[
        int,
        _note("this node's share of voters and leaders, compared with the others' weights", ge=1, le=10_000),
    ] = 100


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    """The data directory."""

    shards: Annotated[
        int, _note("LMDB environments, a power of two; fixed when the data directory is made", ge=1, le=64)
    ] = 2
    map_bytes: Annotated[
        int, _note("bytes of address space per shard: a sparse upper bound, not an allocation", ge=16 * MIB)
    ] = 64 * GIB
    quota_bytes: Annotated[
        int, _note("bytes of data after which writes get 507; 0: only the reserve counts", ge=0)
    ] = 0
    reserve_bytes: Annotated[
        int, _note("bytes left free on the disk, so that deletes still work when it is full", ge=0)
    ] = 512 * MIB
    segment_bytes: Annotated[
        int, _note("bytes of one file of the journal; a batch that is larger gets a larger one", ge=MIB)
    ] = 64 * MIB
    commit_delay_ms: Annotated[
        int, _note("milliseconds a transaction may stay open under load before it commits", ge=0, le=1000)
    ] = 50
    commit_rows: Annotated[Count, _note("rows written after which a transaction commits at once")] = 20_000


class Media(Struct, frozen=True, forbid_unknown_fields=True):
    """Photographs: what is taken and what decoding one may cost."""

    photo_bytes_max: Annotated[Bytes, _note("bytes of one uploaded photo")] = 8 * MIB
    workers: Annotated[int, _note("decoding processes; 0: one per processor", ge=0, le=256)] = 0
    job_memory_bytes: Annotated[int, _note("address space of one worker process, in bytes", ge=256 * MIB)] = (
        3 * GIB // 2
    )
    job_cpu_s: Annotated[Seconds, _note("seconds of processor time for one job")] = 20.0
    job_wall_s: Annotated[Seconds, _note("seconds by the clock for one job; then its worker is killed")] = (
        60.0
    )
    job_attempts_max: Annotated[int, _note("tries of a job before it becomes a dead letter", ge=1, le=20)] = 3
    job_backoff_s: Annotated[Seconds, _note("seconds before a job's second try; doubles with each")] = 10.0
    upload_expiry_s: Annotated[Seconds, _note("seconds an upload URL is good for")] = 900.0
    photo_wait_s: Annotated[Seconds, _note("seconds POST /v1/photos waits for the variants")] = 1.5


class Feed(Struct, frozen=True, forbid_unknown_fields=True):
    """The feed cache."""

    cache_bytes: Annotated[int, _note("bytes of memory for merged feeds; 0 turns the cache off", ge=0)] = (
        64 * MIB
    )
    rows_bytes: Annotated[
        int, _note("bytes of memory for rows that feed pages read again and again; 0: none are kept", ge=0)
    ] = 48 * MIB
    pull_above: Annotated[
        Count, _note("cached followers above which an author is merged at read instead of pushed")
    ] = 1000


class Accounts(Struct, frozen=True, forbid_unknown_fields=True):
    """Sessions and passwords."""

    access_token_s: Annotated[Seconds, _note("seconds an access token lives")] = 900.0
    refresh_token_s: Annotated[Seconds, _note("seconds an unused refresh token lives")] = 30 * 86400.0
    refresh_reuse_s: Annotated[Seconds, _note("seconds in which a used refresh token works once more")] = 30.0
    admin_session_s: Annotated[Seconds, _note("seconds after sign-in in which /v1/admin may be used")] = (
        3600.0
    )
    argon2_memory_kib: Annotated[
        int, _note("KiB of memory that hashing a password takes (RFC 9106); old hashes keep theirs", ge=64)
    ] = 65_536
    argon2_passes: Annotated[int, _note("passes over that memory", ge=1, le=100)] = 3
    argon2_lanes: Annotated[int, _note("lanes that it is filled in", ge=1, le=8)] = 4
    argon2_parallel_max: Annotated[
        Count, _note("password hashes computed at once; each takes 64 MiB and 0.1 s of a processor")
    ] = 2
    argon2_queue_max: Annotated[Count, _note("sign-ins that may wait for a hash; one more gets 503")] = 64
    token_cache_entries: Annotated[
        Count, _note("verified access tokens remembered, to spare the signature check")
    ] = 50_000


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Rate limits: so many in so many seconds, per user and per address (IPv6: per /64)."""

    sign_up_count: Annotated[Count, _note("accounts made per address in sign_up_window_s")] = 10
    sign_up_window_s: Annotated[Seconds, _note("window of sign_up_count, seconds")] = 3600.0
    sign_in_count: Annotated[Count, _note("sign-ins per name and address in sign_in_window_s")] = 10
    sign_in_window_s: Annotated[Seconds, _note("window of sign_in_count, seconds")] = 60.0
    writes_count: Annotated[Count, _note("writes in writes_window_s")] = 300
    writes_window_s: Annotated[Seconds, _note("window of writes_count, seconds")] = 300.0
    uploads_count: Annotated[Count, _note("uploads in uploads_window_s")] = 100
    uploads_window_s: Annotated[Seconds, _note("window of uploads_count, seconds")] = 3600.0
    reads_count: Annotated[Count, _note("reads in reads_window_s")] = 3000
    reads_window_s: Annotated[Seconds, _note("window of reads_count, seconds")] = 300.0
    entries_max: Annotated[Count, _note("callers remembered at once; the longest unseen are forgotten")] = (
        100_000
    )


class Logs(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes to stderr."""

    format: Annotated[Literal["json", "console"], _note("json for machines, console for a person")] = "json"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], _note("the least level that is written")
    ] = "info"


class Settings(Struct, frozen=True):
    """All sections."""

    http: Http = Http()
    admin: Admin = Admin()
    cluster: Cluster = Cluster()
    storage: Storage = Storage()
    media: Media = Media()
    feed: Feed = Feed()
    accounts: Accounts = Accounts()
    limits: Limits = Limits()
    logs: Logs = Logs()
    sources: dict[str, str] = {}  # dotted key → where its value came from; absent: the default


class Row(Struct, frozen=True):
    """One line of `heliograph config show`."""

    key: str
    value: Any
    source: str
    default: Any
    meaning: str


SECTIONS: dict[str, type[Struct]] = {
    name: kind
    for name, kind in get_type_hints(Settings).items()
    if isinstance(kind, type) and name != "sources"
}
HINTS: dict[str, Any] = {
    f"{section}.{key}": hint
    for section, kind in SECTIONS.items()
    for key, hint in get_type_hints(kind, include_extras=True).items()
}
DEFAULTS: dict[str, Any] = {
    key: getattr(SECTIONS[key.partition(".")[0]](), key.partition(".")[2]) for key in HINTS
}


def load(
    *, flags: Iterable[str] = (), environment: Mapping[str, str] | None = None, config: Path | None = None
) -> Settings:
    """The settings from `KEY=VALUE` flags, environment variables (the process's by default) and a TOML file.

    Raises SettingsError at the first value that cannot be used.
    """
    found: dict[str, tuple[Any, str]] = {}
    if config is not None:
        found.update(_from_file(config))
    found.update(_from_environment(os.environ if environment is None else environment))
    found.update(_from_flags(flags))
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, (value, source) in found.items():
        section, _, name = key.partition(".")
        values[section][name] = _checked(key, value, source)
    sections: dict[str, Any] = {section: kind(**values[section]) for section, kind in SECTIONS.items()}
    settings = Settings(**sections, sources={key: source for key, (_, source) in found.items()})
    _check_together(settings)
    return settings


def describe(settings: Settings) -> list[Row]:
    """Every setting with its value, where that came from, its default and what it means, in the order of the
    file."""
    rows = []
    for key, hint in HINTS.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(settings, section), name)
        rows.append(Row(key, value, settings.sources.get(key, "default"), DEFAULTS[key], _meaning(hint)))
    return rows


def variable(key: str) -> str:
    """The environment variable of a dotted key: `http.port` → `HELIOGRAPH_HTTP_PORT`."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: not TOML: {error}") from error
    found = {}
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            raise SettingsError(f"{path}: [{section}] is no section; there are {', '.join(SECTIONS)}")
        for name, value in table.items():
            key = f"{section}.{name}"
            _known(key, str(path))
            found[key] = (value, str(path))
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    keys = {variable(key): key for key in HINTS}
    found: dict[str, tuple[Any, str]] = {}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NOT_SETTINGS:
            continue
        if name not in keys:
            raise SettingsError(f"{name}: no such setting{_nearest(name, keys)}")
        found[keys[name]] = (value, name)
    return found


def _from_flags(flags: Iterable[str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals:
            raise SettingsError(f"--set {flag}: write it as SECTION.KEY=VALUE, for example http.port=8000")
        _known(key.strip(), f"--set {flag}")
        found[key.strip()] = (value, "--set")
    return found


def _known(key: str, source: str) -> None:
    if key not in HINTS:
        raise SettingsError(f"{source}: {key}: no such setting{_nearest(key, HINTS)}")


def _nearest(wrong: str, right: Iterable[str]) -> str:
    # Imported here: it is needed only on the way to an error.
    from difflib import get_close_matches

    close = get_close_matches(wrong, list(right), n=1)
    return f"; did you mean {close[0]}?" if close else "; `heliograph config show` lists them"


def _checked(key: str, value: Any, source: str) -> Any:
    """`value` as the type of `key`. Text is read as that type; a list may be written with commas."""
    hint = HINTS[key]
    kind = _plain(hint)
    if get_origin(kind) is tuple and isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        if kind is float and isinstance(value, str):
            value = float(value)
        return msgspec.convert(value, hint, strict=not isinstance(value, str))
    except (msgspec.ValidationError, ValueError) as error:
        reason = str(error).removesuffix(" - at `$`")
        raise SettingsError(
            f"{key}: {value!r} (from {source}) is not allowed: {reason}; "
            f"it is {_meaning(hint)} (default {DEFAULTS[key]!r})"
        ) from error


def _check_together(settings: Settings) -> None:
    """What no single value can tell."""
    http = settings.http
    if bool(http.tls_cert) != bool(http.tls_key):
        given, lacking = ("tls_cert", "tls_key") if http.tls_cert else ("tls_key", "tls_cert")
        source = settings.sources.get(f"http.{given}", "default")
        raise SettingsError(
            f"http.{given} (from {source}) is set without http.{lacking}; TLS needs both files"
        )
    shards = settings.storage.shards
    if shards & (shards - 1):
        source = settings.sources.get("storage.shards", "default")
        raise SettingsError(f"storage.shards: {shards} (from {source}) is no power of two like 2, 4 or 8")
    advertise = settings.cluster.advertise
    if advertise:
        host, colon, port = advertise.rpartition(":")
        if not (host and colon and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            source = settings.sources.get("cluster.advertise", "default")
            raise SettingsError(
                f"cluster.advertise: {advertise!r} (from {source}) is no HOST:PORT like photos-1.example:8002"
            )
    _check_networks(settings)


def _check_networks(settings: Settings) -> None:
    from ipaddress import ip_network

    for proxy in settings.http.trusted_proxies:
        try:
            ip_network(proxy, strict=False)
        except ValueError as error:
            source = settings.sources.get("http.trusted_proxies", "default")
            raise SettingsError(
                f"http.trusted_proxies: {proxy!r} (from {source}) is no address or network like 10.0.0.0/8"
            ) from error


def _plain(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _meaning(hint: Any) -> str:
    return next(
        note.description for note in get_args(hint)[1:] if isinstance(note, Meta) and note.description
    )
