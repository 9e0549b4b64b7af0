"""A copy of the database, made while the node runs, becomes a node again: with the commands of docs/operator.md."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from sync.node.adjustments import adjust
from sync.node.context import Node
from sync.node.database import Database
from sync.node.errors import Refusal
from sync.node.ingest import Gap, ingest
from sync.node.postgres import Postgres, _binaries
from sync.node.serve import prepare
from tests.sync.node.world import START_MS, balances, make_box, make_customer, pay, send

DOCS = Path(__file__).parents[3] / "docs" / "operator.md"


def run(command: str, tmp_path: Path, socket_folder: Path, database: str) -> None:
    """As the docs say it, with this test's places in it."""
    (line,) = re.findall(rf"^\$PG/{command} .*$", DOCS.read_text(), re.MULTILINE)
    words = line.replace("$PG", str(_binaries())).replace("$DATA", str(socket_folder)).split()
    at = words.index("postgres", words.index("-U") + 2)
    words[at] = database
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)


@pytest.fixture
def other(node: Node, empty_dsn: str) -> Iterator[Node]:
    """A node of the same key over another database."""
    database = Database(empty_dsn, 2)
    database.open()
    prepare(node.settings, database, node.key, node.clock)
    yield replace(node, database=database)
    database.close()


def correct(node: Node) -> bool:
    with node.database.transaction() as connection:
        return adjust(connection, "sharma", "ticket-1", 100, reason="a test", now_ms=START_MS).posted


def test_what_came_after_the_copy_comes_again_and_counts_once(
    node: Node, other: Node, server: Postgres, empty_dsn: str, tmp_path: Path
) -> None:
    box = make_box(node, make_customer(node))
    box.use_paise(100)
    box.use_paise(200)
    send(node, box.segment())
    pay(node, "sharma", 1000, "1" * 12)
    run("pg_dump", tmp_path, server._data, "postgres")

    box.lease = send(node, box.heartbeat()).lease.lease_id
    box.use_paise(300)
    send(node, box.segment(3))
    pay(node, "sharma", 2000, "2" * 12)
    assert correct(node)
    later = make_box(node, "sharma", seed=2)

    run("pg_restore", tmp_path, server._data, str(conninfo_to_dict(empty_dsn)["dbname"]))
    prepare(other.settings, other.database, other.key, other.clock)
    with pytest.raises(Gap) as gap:
        ingest(other, box.heartbeat())
    assert send(other, box.segment(gap.value.acked + 1)).acked == 3
    with pytest.raises(Refusal, match="credited only once"):
        pay(other, "sharma", 1000, "1" * 12)
    pay(other, "sharma", 2000, "2" * 12)
    assert [correct(other), correct(other)] == [True, False]
    assert balances(other) == balances(node)
    with pytest.raises(Refusal, match="not signed by a key enrolled"):
        ingest(other, later.heartbeat())
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"), other.database.transaction() as connection:
        connection.execute("delete from postings")
