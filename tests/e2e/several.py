"""`python -m tests.e2e.several`: commands of the CLI in one process that starts once.

Reads [[environment, [argument, …]], …] as JSON from standard input, runs `prescreen` with the
arguments of each, and prints [[exit status, standard output, standard error], …].
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

from prescreen import cli


def _run(environment: dict[str, str], arguments: list[str]) -> tuple[int, str, str]:
    os.environ.update(environment)
    sys.argv = ["prescreen", *arguments]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    for name in environment:
        del os.environ[name]
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    json.dump([_run(environment, arguments) for environment, arguments in asked], sys.stdout)
