"""Which table a fault LOCK locks: that which the statement writes, else that which it reads."""

import pytest

from statelatch.testing import InjectionError
from statelatch.testing.locker import table_of


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE items SET n = 1", "items"),
        ('update only "my items" SET n = 1', '"my items"'),
        ("UPDATE LOW_PRIORITY IGNORE shop.`items` SET n = 1", "shop.`items`"),
        ("INSERT IGNORE INTO items SELECT * FROM other", "items"),
        ("DELETE FROM items USING other", "items"),
        ("DELETE QUICK a FROM items AS a JOIN other", "items"),
        ("SELECT id FROM items FOR UPDATE SKIP LOCKED", "items"),
        ("SELECT id FROM items FOR NO KEY UPDATE NOWAIT", "items"),
        ("SELECT 'it''s from other', id FROM items", "items"),
        (r"SELECT 'it\'s from other', id FROM items", "items"),
        ('SELECT "from other" FROM items', "items"),
        ("SELECT 1 -- from other\nFROM items", "items"),
        ("/* UPDATE other */ SELECT a IS DISTINCT FROM b, from_other FROM items", "items"),
        ("SELECT EXTRACT(YEAR FROM d), (SELECT n FROM other) FROM items", "items"),
        ("WITH r AS (SELECT id FROM other) UPDATE items SET n = 1", "items"),
        ("WITH moved AS (UPDATE items SET n = 1 RETURNING id) INSERT INTO log SELECT id FROM moved", "items"),
    ],
)
def test_the_table_of_a_statement(statement: str, expected: str) -> None:
    """As the statement names it; not what only looks like one."""
    assert table_of(statement) == expected


@pytest.mark.parametrize("statement", ["COMMIT", "SELECT 1", "SELECT d FROM (SELECT d FROM items) AS q FOR UPDATE"])
def test_a_statement_that_is_not_understood(statement: str) -> None:
    """Rather an error than the lock of another table."""
    with pytest.raises(InjectionError, match=r"LOCK: expected a statement that names the table .*: name a simpler one"):
        table_of(statement)
