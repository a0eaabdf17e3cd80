"""Error texts: what is dropped, what is masked, what is kept."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from statelatch.errors import StaleVersionError
from statelatch.runs.error_text import LONGEST, LONGEST_TYPE, READ, clean, error_text, error_type

INVISIBLE = [
    ("a\x00b", "ab"),
    ("bell\x07 back\x08space \x7f", "bell backspace"),
    ("two\nlines\r\n\tand  a tab ", "two lines and a tab"),
    ("next\x85line\u2028paragraph\u2029end", "next line paragraph end"),
    ("\x1b[1;31mred\x1b[0m", "red"),
    ("\x9b31mred\x9b0m", "red"),
    ("\x1b[2J\x1b[Hscreen", "screen"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bP1$r0m\x1b\\text", "text"),
    ("\x1b]0;no end\ntext", "0;no end text"),
    ("\x1b]0;no end\ntext\x07", "0;no end text"),
    ("\x1b(Bcharset \x1b=keypad \x1bcreset", "charset keypad reset"),
    ("\x1b\x1b[31m[31mred", "[31mred"),
    ("cut off \x1b[3", "cut off"),
    ("\u202egpj.exe\u202c", "gpj.exe"),
    ("\u2066isolate\u2069", "isolate"),
    ("zero\u200bwidth\ufeff soft\u00adhyphen \U000e0041", "zerowidth softhyphen"),
    ("half \ud83d a pair \udc80", "half a pair"),
    ("Größe 漢字 😀", "Größe 漢字 😀"),
]

PATHS = [
    ('File "/srv/app/job.py", line 3, in run', 'File "<path>", line 3, in run'),
    ("[Errno 2] No such file or directory: '/home/me/my file.txt'", "[Errno 2] No such file or directory: '<path>'"),
    ("""cannot open "/home/o'brien/a b" now""", 'cannot open "<path>" now'),
    ("cannot open '/home/o'brien/a b' now", "cannot open '<path>' now"),
    ("/srv/app.py:12: SyntaxError", "<path>:12: SyntaxError"),
    ("(see /srv/a/b). Or /srv/c, /srv/d; /e!", "(see <path>). Or <path>, <path>; <path>!"),
    ("PATH=/usr/bin:/bin", "PATH=<path>:<path>"),
    ('{"file":"/srv/a","n":1}', '{"file":"<path>","n":1}'),
    ("open(/srv/a,b/(1).d/../secret)", "open(<path>)"),
    ("/tmp/my\\ file gone", "<path> gone"),
    ("cc -I/usr/include -o/tmp/x", "cc -I<path> -o<path>"),
    ("host:/srv/backup me@host:/srv/x", "host:<path> me@host:<path>"),
    ("<file>/srv/a</file>", "<file><path></file>"),
    ("a </etc/passwd", "a <<path>"),
    ("//server/share/x", "<path>"),
    ("/Größe/漢字 fehlt", "<path> fehlt"),
    ("~/.ssh/id_rsa and ~me/x", "<path> and <path>"),
    (r"C:\Users\me\x.txt is locked", "<path> is locked"),
    (r"C:\Program Files (x86)\Tool\t.exe not found", "<path> not found"),
    (r"'C:\\Users\\me\\a b.txt'", "'<path>'"),
    ("c:/Users/me, D:\\x", "<path>, <path>"),
    (r"\\server\share\x is away", "<path> is away"),
    (r"'\\\\server\\share\\x y'", "'<path>'"),
    (r"\\?\C:\x \\.\pipe\y", "<path> <path>"),
    ("see file:///srv/a.txt, FILE:/srv/b and file://host/c.", "see <path>, <path> and <path>."),
    ("file:///C:/Users/me", "<path>"),
    ("git+file:///srv/repo@main", "<path>"),
    ("sqlite:////srv/runs.db did not answer", "sqlite:///<path> did not answer"),
    ("sqlite:///C:\\runs.db", "sqlite:///<path>"),
    ("zero\u200b /sr\u200bv/x", "zero <path>"),
]

NO_PATHS = [
    "1/2 and/or application/json km/h n/a 2026/11/24",
    "a / b // c",
    "unsupported operand type(s) for /: 'str' and 'int'",
    "unsupported operand type(s) for //=: 'str' and 'int'",
    "accepts */*, not text/html",
    "../near/x ./y src/app.py",
    "#/definitions/Run",
    "<br/> <b>x</b>",
    r"bad escape \d and \\d",
    "about ~1/2 of it",
    "s/a/b/",
    "Ratio: 3:4",
]

URLS = [
    ("https://a.example/b/c?file=/etc/passwd#d", "https://a.example/b/c?file=/etc/passwd#d"),
    ("(Background on this error at: https://sqlalche.me/e/20/e3q8)",) * 2,
    ("https://a.example:443/@scope/package", "https://a.example:443/@scope/package"),
    ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
    ("sqlite:///runs.db postgresql:///runs", "sqlite:///runs.db postgresql:///runs"),
    ("postgresql+psycopg://me:secret@db:5432/runs", "postgresql+psycopg://me:***@db:5432/runs"),
    ("redis://:secret@db/0", "redis://:***@db/0"),
    ("mariadb://me:p@ss/w:rd#?'@db/runs", "mariadb://me:***@db/runs"),
    ("https://me@a.example/", "https://me@a.example/"),
    ("mysql://root:/secret@h/db", "mysql://root:***@h/db"),
    ("mysql://root:?sec#ret@h/db", "mysql://root:***@h/db"),
    ("http://h:/a/b http://h:80/a@b", "http://h:/a/b http://h:80/a@b"),
    ("postgresql://h/db?password=secret&user=me", "postgresql://h/db?password=***&user=me"),
    ("jdbc:postgresql://h/db?user=u&Password=/se:cret", "jdbc:postgresql://h/db?user=u&Password=***"),
    ("redis://h?auth.token=x 'https://h/?sslpassword=s'", "redis://h?auth.token=*** 'https://h/?sslpassword=***'"),
    ("https://h/?password=&pass=a", "https://h/?password=&pass=a"),
    ("from amqp://a:x@b to amqp://c:y@d,amqp://e:z@f", "from amqp://a:***@b to amqp://c:***@d,amqp://e:***@f"),
]

LONG = [
    ("x" * LONGEST, "x" * LONGEST),
    ("x" * (LONGEST + 1), "x" * (LONGEST - 1) + "…"),
    ("x" * 1_000_000, "x" * (LONGEST - 1) + "…"),
    ("x" * (LONGEST - 2) + " yy", "x" * (LONGEST - 2) + "…"),
    ("/srv/" + "x" * 1_000_000, "<path>…"),
    ("\x00" * 1_000_000, "…"),
    ("\x1b[m" * (READ // 3 - 5) + "said redis://:secret" + "x" * 9 + "@db", "said…"),
]

FRAGMENTS = [
    *"/\\:~@.…,()<>|*?#=%{}; \"'`\n\x1b",
    *"aé1",
    "\\\\",
    "C:",
    "://",
    "file:",
    "sqlite:///",
    "</",
    " -I",
    "u:p@",
]
texts = st.text() | st.lists(st.sampled_from([*FRAGMENTS, "x" * 500, "\x1b]0;", "\u202e"]), max_size=20).map("".join)


class SilentError(Exception):
    """Raises whatever it is given when it is to say what it is."""

    def __str__(self) -> str:
        raise self.args[0]


class OwnString(str):
    """A string that is not what it seems."""

    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        raise RuntimeError


class Outer:
    """Has an exception inside."""

    class InnerError(Exception):
        """It."""


@pytest.mark.parametrize(("text", "expected"), INVISIBLE)
def test_drops_what_cannot_be_seen(text: str, expected: str) -> None:
    """Escape sequences, control and format characters and surrogates are gone; white space is one space."""
    assert expected == clean(text)


@pytest.mark.parametrize(("text", "expected"), PATHS)
def test_masks_paths(text: str, expected: str) -> None:
    """Absolute paths of POSIX and Windows, home folders and file URLs are masked; the sentence around them stays."""
    assert expected == clean(text)


@pytest.mark.parametrize("text", NO_PATHS)
def test_keeps_what_only_looks_like_a_path(text: str) -> None:
    """Fractions, dates, media types, operators, tags and relative paths are no absolute paths."""
    assert text == clean(text)


@pytest.mark.parametrize(("text", "expected"), URLS)
def test_keeps_urls_without_their_password(text: str, expected: str) -> None:
    """URLs are kept, their password is not."""
    assert expected == clean(text)


@pytest.mark.parametrize(("text", "expected"), LONG, ids=range(len(LONG)))
def test_cuts_long_texts(text: str, expected: str) -> None:
    """A text that is too long ends with an ellipsis, and with no half of a path or password."""
    assert expected == clean(text)


@pytest.mark.parametrize(
    "unit", ["/a", "'/a", "C:\\a b ", "\x1b]", "://u:", "?password", "&token=", "file:/.", "a/", "(", "\\\\"]
)
def test_reads_a_bounded_beginning(unit: str) -> None:
    """What stands behind the first `READ` characters has no part in the result, so it costs nothing."""
    beginning = (unit * READ)[:READ]

    assert clean(beginning + " b") == clean(beginning + " b" + "\x00/srv/x" * 125_000)


@given(texts)
def test_result_is_safe(text: str) -> None:
    """Whatever comes in: at most `LONGEST` characters come out, all of them visible, in one line."""
    cleaned = clean(text)

    assert len(cleaned) <= LONGEST
    assert {unicodedata.category(character) for character in cleaned}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert cleaned.split(" ") == cleaned.split() or cleaned == ""


@given(texts)
@example("x" * (LONGEST - 5) + " </tag>")
@example("x" * (LONGEST - 5) + " file:/" + "x" * 9)
def test_clean_is_idempotent(text: str) -> None:
    """What is clean stays as it is."""
    assert clean(text) == clean(clean(text))


@given(st.lists(st.text("abcxyzé09_-", min_size=1), min_size=1), st.sampled_from(["in {} now", "'{}'", "f={}", "({})"]))
def test_no_folder_comes_through(folders: list[str], around: str) -> None:
    """Of an absolute path no component is left, wherever it stands."""
    assert around.format("<path>") == clean(around.format("/" + "/".join(folders)))
    assert around.format("<path>") == clean(around.format("Q:\\" + "\\".join(folders)))


@given(st.from_regex(r"(?!\d+[/?#])[abz0:/?#@%!$&'()*+,;=.~-]+", fullmatch=True).filter(lambda text: "://" not in text))
def test_no_password_comes_through(password: str) -> None:
    """Of a password in a URL nothing is left, even if it should have been percent-encoded."""
    assert clean(f"mariadb://me:{password}@db/runs") == "mariadb://me:***@db/runs"


@pytest.mark.parametrize("message", ["", " \n", "\x00\x1b[m"])
def test_empty_message_is_the_class_name(message: str) -> None:
    """An error that says nothing, or nothing visible, is named by its class."""
    assert error_text(ValueError(message)) == "ValueError"
    assert error_text(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    "trouble", [RuntimeError("no"), RecursionError(), MemoryError(), KeyboardInterrupt(), SystemExit(2)]
)
def test_an_error_that_cannot_speak(trouble: BaseException) -> None:
    """An error whose `__str__` raises is named by its class, and nothing escapes."""
    assert error_text(SilentError(trouble)) == "SilentError"


def test_a_string_with_ideas_of_its_own() -> None:
    """A `__str__` that returns a subclass of `str` is read as the plain string that it holds."""

    class OwnError(Exception):
        def __str__(self) -> str:
            return OwnString("found in /srv/x")

    assert error_text(OwnError()) == "found in <path>"


def test_message_is_cleaned() -> None:
    """An error's text is its message, cleaned."""
    assert error_text(OSError(2, "No such file", "/srv/my file")) == "[Errno 2] No such file: '<path>'"
    assert error_text(KeyError("a\nb")) == r"'a\nb'"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (
            StaleVersionError(table="t", key=1, event="e", expected_version=1, actual_version=2, state="s"),
            "statelatch.errors.StaleVersionError",
        ),
        (Outer.InnerError(), f"{__name__}.Outer.InnerError"),
        (type("Bad\n\u202eName", (Exception,), {"__module__": "m"})(), "m.Bad Name"),
    ],
)
def test_type_is_the_qualified_name(error: BaseException, expected: str) -> None:
    """The type is the class's qualified name, that of a builtin without its module."""
    assert expected == error_type(error)


@pytest.mark.parametrize(("length", "kept"), [(LONGEST_TYPE, "m." + "x" * 253), (LONGEST_TYPE + 1, "…" + "x" * 254)])
def test_type_keeps_its_end(length: int, kept: str) -> None:
    """A name that is too long loses its beginning: the class stands at the end."""
    error = type("x" * (length - 2), (Exception,), {"__module__": "m"})()

    assert kept == error_type(error)


def test_a_class_without_a_visible_name() -> None:
    """A class whose name cannot be seen still gets a text that is not empty."""
    assert error_text(type("\u200b", (Exception,), {})()) == "Exception"
