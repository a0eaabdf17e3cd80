"""PURE: an error's text as it may be stored and shown. The only file that decides what is safe to show.

Rules, in the order in which they are applied:

1. Read a bounded beginning of the text, so that the cost does not depend on its length.
2. Drop what a terminal would obey and a reader would not see: escape sequences as a whole, control and format
   characters (Unicode Cc and Cf, bidirectional overrides among them), lone surrogates. White space becomes one space.
3. Mask a password in a URL, before its host or in its query, then file paths. A path begins where no word goes on
   before it, so `1/2`, `and/or`, `application/json` and `../near` are none. In quotes it ends at the closing quote,
   otherwise at white space, a colon or the punctuation that ends the word. In doubt more is masked, not less.
4. Keep every other URL. One without a host that names an absolute file (`sqlite:////srv/runs.db`) is a path.
5. Cut to `LONGEST` characters.

`clean` changes nothing in what it has cleaned, and the time of every pattern is linear in the text: runs are
possessive or bounded.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["LONGEST", "LONGEST_TYPE", "clean", "error_text", "error_type"]

LONGEST = 1024
"""Characters of an error's text."""

LONGEST_TYPE = 255
"""Characters of an error's class name."""

READ = 8 * LONGEST
"""Characters of the original that are looked at: what is dropped or masked leaves room for more."""

CUT = "…"
PATH = "<path>"

ESCAPES = re.compile(
    r"""
      (?: \x1b\[ | \x9b ) [0-?]*+ [ -/]*+ [@-~]?                                     # CSI: colours, cursor
    | (?: \x1b[\]PX^_] | [\x9d\x90\x98\x9e\x9f] )                                    # OSC, DCS, SOS, PM, APC:
      [^\n\x07\x18\x1a\x1b\x80-\x9f]*+ (?: \x07 | \x1b\\ | \x9c )                    # up to their end, if it comes
    | \x1b [ -/]*+ [0-~]?                                                            # everything shorter
    """,
    re.VERBOSE,
)
"""Control sequences of ECMA-48 (https://ecma-international.org/publications-and-standards/standards/ecma-48/)."""

PASSWORD = re.compile(r"""(://[^\s/?#:@\[<>"]*+:)(?!\d++(?:[/?#\s]|$))(?:(?!://)[^\s<>"])*(?=@)""")
"""The password in a URL's userinfo; a port is none. It may contain what should have been percent-encoded."""

QUERY_PASSWORD = re.compile(
    r"""([?&;](?i:[\w.\-]{0,32}(?:password|passwd|pwd|secret|token)[\w.\-]{0,32}+)=)[^\s&#"'<>]++"""
)
"""What a URL's query, or a connection string of the same shape, calls a password or something like it."""

# Pieces of PATHS. A path begins with one of three and goes on inside its word.
_FIRST = r"""[^\s<>|*()\[\]\\}'"`,;:=?&^!/…]"""  # after the first slash; `/=`, `/*` and `/)` begin no path
_POSIX = rf"(?: ~(?:[A-Za-z_][\w.\-]{{0,63}}+)? )? /++ (?={_FIRST})"
_DRIVE = r"(?: \\\\++ [.?] \\++ )? [A-Za-z]: [\\/]++"
_SHARE = r"\\\\++ [\w.?$\-]++ [\\/]++"
_FOLDER = r"""[^\s\\/:*?"<>|,;']++ (?: [ ] [^\s\\/:*?"<>|,;']++ ){0,4} \\++"""  # `Program Files\`
_ENDS = r"""\s<>|:;"'`,.!?()\[\]{}…"""  # ends a path; the punctuation does so only where no word goes on behind it
_INSIDE = rf"""(?: (?:[^{_ENDS}\\]|\\(?![ ]))++ | \\[ ](?=\S) | ["'`,.!?()\[\]{{}}…]++ (?=[\w/\\~%$@+\-]) )*+"""

PATHS = re.compile(
    rf"""
      (?P<file> \b (?: [A-Za-z][\w.\-]{{0,31}}+ \+ )? (?i:file) :/++
        (?: [^\s<>"'.,;:!?)\]}}…]++ | [.,;:!?)\]}}…]++ (?=[^\s<>"'.,;:!?)\]}}…]) )++ )
    | (?P<local> [A-Za-z][A-Za-z0-9+.\-]{{1,31}}+ :/// ) (?: (?i:file:)?/++ | [A-Za-z]:[\\/]++ ) [^\s<>"']++
    | (?P<url> [A-Za-z][A-Za-z0-9+.\-]{{1,31}} ://[^\s<>"']*+ )
    | (?P<tag> </[\w:.\-]*+ [>…] )
    | (?P<quoted> (?P<quote>["'`])
        (?: {_POSIX} | {_DRIVE} | {_SHARE} ) (?: (?!(?P=quote)). | (?P=quote)(?=\w) ){{0,{LONGEST}}}+ (?=(?P=quote)) )
    | (?P<posix> (?: (?<![\w./*)\]}}%$\\\#~…\-]) | (?<=[ ]-[A-Za-z]) ) {_POSIX} {_INSIDE} )
    | (?P<windows> (?<![\w\\]) (?: {_DRIVE} | {_SHARE} ) (?: {_FOLDER} )*+ {_INSIDE} )
    """,
    re.VERBOSE,
)
"""Paths, and what only looks like one; the alternatives that keep their match come before those that mask."""


def error_text(error: BaseException) -> str:
    """The error's message, cleaned; its class name if it has none. Never raises, whatever the error does.

    Args:
        error: any exception, one whose `__str__` raises included.
    """
    return clean(_message(error)) or _class_name(error)


def error_type(error: BaseException) -> str:
    """The error's class with its module, at most `LONGEST_TYPE` characters, of which the last are kept."""
    cls = type(error)
    name = _visible(cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}")
    return name if len(name) <= LONGEST_TYPE else CUT + name[1 - LONGEST_TYPE :]


def clean(text: str) -> str:
    """The text in one line of at most `LONGEST` characters, without control characters, file paths and passwords.

    Args:
        text: of any length.
    """
    seen = _visible(text[:READ])
    if len(text) > READ:
        # The last word is incomplete: what would mark it as a path or a password may be missing.
        seen = (seen.rpartition(" ")[0] or seen) + CUT
    hidden = QUERY_PASSWORD.sub(r"\1***", PASSWORD.sub(r"\1***", seen))
    masked = PATHS.sub(_masked, hidden)
    return masked if len(masked) <= LONGEST else masked[: LONGEST - 1].rstrip() + CUT


def _visible(text: str) -> str:
    plain = ESCAPES.sub("", text)
    return " ".join("".join(character for character in plain if _is_visible(character)).split())


def _is_visible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}


def _masked(match: re.Match[str]) -> str:
    match match.lastgroup:
        case "url" | "tag":
            return match[0]
        case "local":
            return match["local"] + PATH
        case "quoted":
            return match["quote"] + PATH
        case _:
            return PATH


def _message(error: BaseException) -> str:
    try:
        return str.__str__(str(error))  # a plain string, not a subclass with ideas of its own
    except BaseException:  # noqa: BLE001  __str__ may do anything; this text is the run's last word
        return ""


def _class_name(error: BaseException) -> str:
    return clean(type(error).__name__) or Exception.__name__
