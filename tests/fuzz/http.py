"""Fuzzes the HTTP surface: what `/openapi.json` promises, against a real node on loopback.

Schemathesis makes requests of the description, good ones and bad ones, signed in as an admin and as nobody,
and holds every answer to it: no 5xx, only documented statuses and media types, bodies of the declared shape,
bad data and missing sign-ins refused, methods that are not offered refused as such. The same seed makes the
same requests.
"""

import sys
import tempfile
from pathlib import Path

import trio

from tests.node.nodes import picture, running

EXAMPLES = 30  # per operation and phase, at most
REQUEST_S = 20
# What would end the session or the account that everything else needs.
LEFT_OUT = r"/v1/admin/accounts/.*/(suspend|delete|password|role)$"
LEFT_OUT_TOO = "end_session"
# Data that its schema allows may be refused here, by a documented status: a follow of oneself for example.
CHECKS_LEFT_OUT = ("positive_data_acceptance",)
CHEAP = ("accounts.argon2_memory_kib=64", "accounts.argon2_passes=1", "accounts.argon2_lanes=1")


def main(seconds: float, seed: int) -> int:
    """Fuzz for about `seconds`; 0 when nothing was found, else schemathesis's exit code."""
    print(f"http: seed {seed}, {seconds:g} s", flush=True)
    return trio.run(_run, seconds, seed)


async def _run(seconds, seed):
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory, "node"), *CHEAP, "logs.level=error") as node:
            user, other = await node.sign_up("fuzz"), await node.sign_up("other")
            await user.follow(other)
            await node.admin.post(f"/v1/admin/accounts/{user.id}/role", json={"role": "admin"})
            post = await user.post_photo(picture(), caption="#fuzz")
            await other.call("POST", f"/v1/posts/{post['id']}/comments", json={"text": "hello"})
            done = await trio.run_process(_command(node, user, seconds, seed), check=False)
            alive = await node.http.get("/healthz")
            after = await user.ask("GET", "/v1/users/me")
    for path, answer in (("/healthz", alive), ("/v1/users/me", after)):
        if answer.status_code != 200:
            print(f"http: FAILED {path} answers {answer.status_code} afterwards")
            return 1
    return done.returncode


def _command(node, user, seconds, seed):
    return [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{node.url}/openapi.json",
        f"--header=Authorization: Bearer {user.access_token}",
        f"--seed={seed}",
        f"--max-time={max(1, round(seconds))}",
        f"--max-examples={EXAMPLES}",
        f"--request-timeout={REQUEST_S}",
        f"--exclude-checks={','.join(CHECKS_LEFT_OUT)}",
        f"--exclude-path-regex={LEFT_OUT}",
        f"--exclude-operation-id={LEFT_OUT_TOO}",
        "--generation-database=none",
        "--continue-on-failure",
        "--suppress-health-check=all",
        "--warnings=off",
        "--no-color",
    ]
