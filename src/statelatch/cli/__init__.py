"""The command line of statelatch, of the extra `cli`."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

MISSING = "statelatch: the command line needs typer and rich: pip install 'statelatch[cli]'\n"


def main() -> None:
    """Run the command line, or say what to install."""
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun: Ctrl-C need not end in a traceback
    try:
        from statelatch.cli.app import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        os.write(2, MISSING.encode())
        sys.exit(2)
    if interrupted is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    run_app()
