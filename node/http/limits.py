"""Rate limits: so many requests in so many seconds for each caller, in bounded memory.

The generic cell rate algorithm (ITU-T I.371): one number per caller, the time at which its next request would
be exactly on schedule; a caller may be ahead of schedule by one window. No timers, no buckets to refill.
`now` is in seconds on any clock that only goes forward.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil

import msgspec

from node.http.problems import Problem
from node.settings import Limits as LimitSettings

FORWARDED_MAX = 32  # addresses of X-Forwarded-For looked at, from the right
ADDRESSES_CACHED = 4096  # parsed addresses remembered: parsing one costs 3 µs

SIGN_IN_WIDE = 10  # times sign_in_count, for a name from anywhere and for an address whatever the name


class Verdict(msgspec.Struct, frozen=True):
    """What one limit says of one request."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int  # until the whole limit is free again
    retry_after_s: int  # 0 where allowed
    window_s: float

    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers, and Retry-After where it is refused."""
        headers = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
            "RateLimit-Policy": f"{self.limit};w={ceil(self.window_s)}",
        }
        if not self.allowed:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers


class Limit:
    """`count` requests in `window_s` seconds for each key; at most `entries_max` keys are remembered.

    When there are more, the longest unseen is forgotten, which only ever lets someone through.
    """

    def __init__(self, count: int, window_s: float, entries_max: int) -> None:
        self.count = count
        self.window_s = window_s
        self._spacing = window_s / count
        self._entries_max = entries_max
        self._due: dict[str, float] = {}  # key → when its next request is on schedule; in order of last use

    def __len__(self) -> int:
        return len(self._due)

    def look(self, key: str, now: float) -> Verdict:
        """What a request would be told; takes nothing."""
        return self._verdict(self._standing(self._due.get(key, now), now), now)

    def take(self, key: str, now: float) -> Verdict:
        """Count one request of `key`, unless it is over the limit."""
        due = self._standing(self._due.pop(key, now), now)
        if due + self._spacing - now > self.window_s * (1 + 1e-9):
            self._due[key] = due
            return self._verdict(due, now, allowed=False)
        self._due[key] = due + self._spacing
        if len(self._due) > self._entries_max:
            del self._due[next(iter(self._due))]
        return self._verdict(due + self._spacing, now, allowed=True)

    def _standing(self, due: float, now: float) -> float:
        """Nobody's schedule lies further ahead than a window: then the clock was set back since."""
        return now if due > now + self.window_s + self._spacing else max(due, now)

    def _verdict(self, due: float, now: float, allowed: bool | None = None) -> Verdict:
        room = int((self.window_s - (due - now)) / self._spacing + 1e-9)
        if allowed is None:
            allowed = room > 0
        wait = 0 if allowed else max(1, ceil(due + self._spacing - now - self.window_s))
        return Verdict(allowed, self.count, max(0, room), ceil(due - now), wait, self.window_s)


class Limits:
    """The limits of the settings by name: sign_up, sign_in (and sign_in_wide), writes, uploads, reads."""

    def __init__(self, settings: LimitSettings) -> None:
        self._limits = {
            name: Limit(
                getattr(settings, name + "_count"),
                getattr(settings, name + "_window_s"),
                settings.entries_max,
            )
            for name in ("sign_up", "sign_in", "writes", "uploads", "reads")
        }
        # Guesses from many addresses at one name, or from one address at many names: a school signs in from
        # one address, and nobody can keep an owner out with few wrong passwords.
        self._limits["sign_in_wide"] = Limit(
            settings.sign_in_count * SIGN_IN_WIDE, settings.sign_in_window_s, settings.entries_max
        )

    def take(self, name: str, keys: Iterable[str], now: float) -> Verdict:
        """Count one request against every key (a user, an address); the tightest verdict.

        A request that one key refuses is counted against none. Raises Problem rate_limited.
        """
        keys = list(keys)
        self.look(name, keys, now)
        limit = self._limits[name]
        return min((limit.take(key, now) for key in keys), key=lambda verdict: verdict.remaining)

    def look(self, name: str, keys: Iterable[str], now: float) -> None:
        """Count nothing. Raises Problem rate_limited where `take` would."""
        limit = self._limits[name]
        refused = [verdict for verdict in (limit.look(key, now) for key in keys) if not verdict.allowed]
        if refused:
            worst = max(refused, key=lambda verdict: verdict.retry_after_s)
            raise Problem(
                "rate_limited",
                f"at most {limit.count} {name.replace('_', '-')} requests in {limit.window_s:g} s; "
                f"try again in {worst.retry_after_s} s",
                worst.headers(),
            )


@lru_cache(ADDRESSES_CACHED)
def address_key(address: str) -> str:
    """The key of a client's address: an IPv6 network of 64 bits is one caller, for one subscriber has all of
    it."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "address:unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"address:{parsed.ipv4_mapped}"
        return f"address:{ip_network((parsed, 64), strict=False)}"
    return f"address:{parsed}"


class Crowd:
    """How many connections each address holds: at most `most_each`, so that one cannot take them all.

    Those of trusted proxies are not counted, for they come in the name of many. Bounded by the connections
    that are open.
    """

    def __init__(self, most_each: int, proxies: "Proxies") -> None:
        self._most_each = most_each
        self._proxies = proxies
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def enter(self, peer: str) -> bool:
        """Whether one more is welcome; if so, `leave` when it ends."""
        key = address_key(peer)
        held = self._held.get(key, 0)
        if held >= self._most_each and not self._proxies.trusts(peer):
            return False
        self._held[key] = held + 1
        return True

    def leave(self, peer: str) -> None:
        key = address_key(peer)
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]


class Proxies:
    """Whose word about a client's address is taken (`http.trusted_proxies`)."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [ip_network(network, strict=False) for network in trusted]

    def client(self, peer: str, forwarded_for: str) -> str:
        """The client's address: read X-Forwarded-For from the right while its sayer is trusted.

        What lies left of the first address that is not a trusted proxy may be anyone's invention. An entry
        that is no address ends the reading, too.
        """
        client = peer
        if not self._networks or not forwarded_for:
            return client
        for entry in reversed(forwarded_for.split(",")[-FORWARDED_MAX:]):
            if not self.trusts(client):
                break
            address = _without_port(entry.strip())
            try:
                ip_address(address)
            except ValueError:
                break
            client = address
        return client

    def trusts(self, address: str) -> bool:
        """Whether this address is one of them."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)


def _without_port(entry: str) -> str:
    """`1.2.3.4:567` and `[::1]:567`, as some proxies write, without the port."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    if entry.count(":") == 1:
        return entry.partition(":")[0]
    return entry
