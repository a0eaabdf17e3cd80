"""The guards of the lifecycle on each database."""

from sqlalchemy import Engine

from tests.unit.test_runs_model import disagreements


def test_guards_in_sql_agree_with_python(engine: Engine) -> None:
    """Of rows with every combination of values and NULLs, each guard and its negation hold for the same ones."""
    assert disagreements(engine) == []
