"""`make fuzz`: broken images through the workers, odd requests through the API, lies over links.

    python -m tests.fuzz [--seconds N] [--seed N] [images] [http] [frames] [handshakes]

Without a seed each run tries something else; it is printed, so that a finding can be made again. Exit code 1
where something was found.
"""

import argparse
import secrets

from tests.fuzz import frames, handshakes, http, images

FUZZERS = {
    "images": images.main,
    "http": http.main,
    "frames": frames.main,
    "handshakes": handshakes.main,
}
SECONDS = 60.0  # each


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("fuzzers", nargs="*", metavar="|".join(FUZZERS), help="which; all without a name")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each fuzzer (%(default)g)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    options = parser.parse_args()
    if unknown := set(options.fuzzers) - set(FUZZERS):
        parser.error(f"no fuzzer {', '.join(sorted(unknown))}")
    # All of them, also after one that found something.
    found = [FUZZERS[name](options.seconds, options.seed) for name in options.fuzzers or FUZZERS]
    return int(any(found))


if __name__ == "__main__":
    raise SystemExit(main())
