"""A real node as a process of its own, and `heliograph` against it as a person would call it."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from click.testing import CliRunner

from cli.main import main

HELIOGRAPH = [sys.executable, "-m", "tests.cli.heliograph"]
LIMITS = ("sign_up", "sign_in", "writes", "uploads", "reads")


@contextmanager
def running(data, *settings):
    """A node on `data` and free ports; its URL. Ends by SIGTERM, and must end well."""
    command = [*HELIOGRAPH, "node", "run", "--data", str(data)]
    command += ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--set", "logs.format=json"]
    for setting in (*(f"limits.{name}_count=100000" for name in LIMITS), *settings):
        command += ["--set", setting]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        yield url_of(process.stderr)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def url_of(log):
    """Where the node serves, from its log."""
    seen = []
    for line in log:
        seen.append(line)
        if '"serving"' in line:
            return json.loads(line)["http"]
    raise AssertionError(f"the node does not serve: {''.join(seen)}")


def environment(**changes):
    """The environment without settings and sign-ins of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    return {**kept, **changes}


class Person:
    """Somebody at a terminal, with a home of their own."""

    def __init__(self, url, home):
        self.url, self.home = url, home

    def type(self, *words, stdin=None, code=0):
        """Run `heliograph WORDS`, which must exit with `code`; its result with stdout and stderr."""
        names = {name: None for name in os.environ if name.startswith("HELIOGRAPH_")}
        env = {**names, "HELIOGRAPH_URL": self.url, "HELIOGRAPH_HOME": str(self.home)}
        result = CliRunner().invoke(main, [*map(str, words)], input=stdin, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    def json(self, *words, **options):
        return json.loads(self.type(*words, "--json", **options).stdout)

    def sign_up(self, name, password="a good long one"):
        self.type("login", name, "--sign-up", "--password-stdin", stdin=password + "\n")
        return self

    @property
    def file(self):
        return self.home / "sign-ins.json"

    @property
    def kept(self):
        """This person's sign-in as it lies in the file."""
        return json.loads(self.file.read_text())["by_url"][self.url]

    def alter(self, **changes):
        kept = json.loads(self.file.read_text())
        kept["by_url"][self.url].update(changes)
        self.file.write_text(json.dumps(kept))
