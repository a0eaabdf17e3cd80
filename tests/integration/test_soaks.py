"""The soaks, in short: that they run, that their faults strike, and that nothing is wrong."""

from __future__ import annotations

import pytest

from tests.servers import Server
from tests.soak.__main__ import main
from tests.soak.kill import kill_rounds

SEED = 20261125
STRUCK = ("start failed", "start unknown", "spooled", "over another connection")
"""What a run's process may be told while the server is away."""


def test_a_process_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    """Seven of eight processes go on with their runs on an SQLite file; what all were told is true, and printed."""
    assert main(["kill", "--rounds", "1", "--seed", str(SEED)]) == 0

    printed = capsys.readouterr().out
    assert f"kill on sqlite, seed {SEED}" in printed
    assert "round  1: worker at" in printed


def test_the_server_is_killed(killable_server: Server) -> None:
    """Eight processes lose their server, and commits nobody has heard of; what they were told is true."""
    (done,) = kill_rounds(killable_server, 1, SEED, ["server, unheard"])

    assert (done.victim, done.account.wrong) == ("server, unheard", [])
    assert done.account.figures["applied"] >= 8
    assert sum(done.account.figures[name] for name in STRUCK) > 0
