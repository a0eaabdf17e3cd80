"""`statelatch diagram`: any machine as a diagram or table, on standard output or in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from statelatch.cli.terminal import put
from statelatch.diagrams import Format, load_machine, render
from statelatch.errors import RequestError

__all__ = ["diagram"]

SUFFIXES = {
    ".mmd": Format.MERMAID,
    ".md": Format.TABLE,
    ".dot": Format.DOT,
    ".svg": Format.SVG,
    ".png": Format.PNG,
}


def diagram(
    machine: Annotated[str, typer.Argument(metavar="MODULE:MACHINE", help="The machine's class, in a module.")],
    fmt: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="Default: what FILE's suffix says, else mermaid."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there, not to standard output.")
    ] = None,
) -> None:
    """Draw a state machine, or list its transitions.

    Mermaid and table need nothing else; dot needs pydot, svg and png need pydot and Graphviz.
    """
    chosen = fmt or _format_of(output)
    if chosen is Format.PNG and output is None and _is_terminal():
        raise RequestError("png is not for a terminal; add -o FILE, or pipe it into a program")
    rendered = render(load_machine(machine), chosen)
    if output is None:
        _print(rendered)
    else:
        _write(output, rendered)


def _format_of(output: Path | None) -> Format:
    if output is None:
        return Format.MERMAID
    if output.suffix.lower() not in SUFFIXES:
        raise RequestError(
            f"{output}: expected a file that ends in {', '.join(SUFFIXES)}, found {output.suffix or 'no suffix'}; "
            "rename it, or say which --format it gets"
        )
    return SUFFIXES[output.suffix.lower()]


def _print(rendered: str | bytes) -> None:
    """To a terminal as text in its encoding, to a pipe as UTF-8."""
    put(rendered.encode() if isinstance(rendered, str) and not _is_terminal() else rendered)


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # pyright: ignore[reportUnnecessaryComparison]  None: closed


def _write(output: Path, rendered: str | bytes) -> None:
    try:
        output.write_bytes(rendered.encode() if isinstance(rendered, str) else rendered)
    except OSError as error:
        raise RequestError(f"{output}: cannot be written: {error.strerror}; choose another file") from error
