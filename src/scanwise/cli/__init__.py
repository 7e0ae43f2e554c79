"""The `scanwise` command: thin shells that parse, make one call, and print.

Nothing heavy is imported here; each command imports what it needs, so that --help is instant.
"""

from __future__ import annotations

import os
import sys

from scanwise.core.errors import ScanwiseError
from scanwise.core.processes import is_first, may_report_failure


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (partial), 2 (a user's mistake) or 3 (integrity)."""
    from scanwise.cli.commands import app

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(words, prog_name="scanwise")
    except ScanwiseError as error:
        if debug:
            raise
        if may_report_failure():
            sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except Exception:
        if not may_report_failure(expected=False):
            sys.exit(1)
        raise
    except KeyboardInterrupt:
        if is_first():
            sys.stderr.write("stopped.\n")
        sys.exit(130)
    except BrokenPipeError:  # `scanwise ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
