"""The `heliograph` command as the tests start it: `python -m tests.crash.heliograph …`.

It is the command that people type, and nothing else, unless `CRASH_PLANTED` names a file with source that is
run first: a bug planted by a test, to see that it is found out.
"""

import os
from pathlib import Path

if __name__ == "__main__":
    planted = os.environ.get("CRASH_PLANTED")
    if planted:
        exec(compile(Path(planted).read_text(), planted, "exec"), {"__name__": "planted"})
    from cli.main import main

    main()
