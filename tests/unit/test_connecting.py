"""What a driver is told of the time that a connection is made in."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine

from statelatch import connecting
from statelatch.limits import Limit

POSTGRESQL, MARIADB = "postgresql+psycopg://h/d", "mariadb+pymysql://h/d"


@pytest.mark.parametrize(
    ("url", "seconds", "given", "told"),
    [
        (POSTGRESQL, 0.3, {}, {"connect_timeout": 1}),
        (MARIADB, 2.5, {}, {"connect_timeout": 3, "read_timeout": 3}),
        (MARIADB, 1e9, {}, {"connect_timeout": 31_536_000, "read_timeout": 31_536_000}),
        (POSTGRESQL, 5.0, {"connect_timeout": "2"}, {"connect_timeout": "2"}),
        (MARIADB, 5.0, {"read_timeout": 60}, {"connect_timeout": 5, "read_timeout": 60}),
        (POSTGRESQL, None, {}, {}),
        (MARIADB, None, {}, {}),
    ],
)
def test_a_driver_is_told_the_limit(
    url: str, seconds: float | None, given: dict[str, Any], told: dict[str, Any]
) -> None:
    """In whole seconds, unless the user has told it something else; without a limit nothing."""
    assert told_to(url, seconds, given) == told


def test_the_environment_tells_psycopg_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on to the next of several hosts when that time is over."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")

    assert told_to(POSTGRESQL, 10.0, {}) == {}


def told_to(url: str, seconds: float | None, given: dict[str, Any]) -> dict[str, Any]:
    """What the driver of this URL is called with."""
    engine = create_engine(url)
    connecting.can_hurry(engine)
    keywords = dict(given)
    for listener in engine.dialect.dispatch.do_connect:
        if seconds is None:
            listener(engine.dialect, None, [], keywords)
        else:
            with connecting.hurried(Limit(seconds)):
                listener(engine.dialect, None, [], keywords)
    return keywords
