"""The command line of statelatch, of the extra `cli`."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

MISSING = "statelatch: the command line needs typer and rich: pip install 'statelatch[cli]'\n"


def main() -> None:
    """Run the command line, or say what to install."""
    try:
        from statelatch.cli.app import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        os.write(2, MISSING.encode())
        sys.exit(2)
    run_app()
