"""A loop that rests asks the database whether anything has changed, and then what is due."""

from __future__ import annotations

from pathlib import Path

from prescreen.settings import Destination
from prescreen.store.database import News, open_database
from prescreen.store.destinations import Destinations
from tests.store_bench import StoreBench

PACS = Destination(name="pacs", ae_title="PACS", host="h", port=104)


def test_news_are_what_another_connection_commits(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    news = News(bench.engine)
    assert news(), "nobody knows what was before"
    assert not news() and not news()
    bench.keep("1.2.3", 1)
    assert news() and not news()
    assert not bench.queue.claim("worker", 300), "nothing is due"
    assert not news(), "a claim of nothing changes nothing"
    other = open_database(tmp_path / "prescreen.db")
    Destinations(other).hold("pacs", "me", "test")
    other.dispose()
    assert news()


def test_what_cannot_be_asked_may_be_news(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    bench.engine.dispose()
    for file in tmp_path.glob("prescreen.db*"):
        file.unlink()
    (tmp_path / "prescreen.db").mkdir()
    assert News(bench.engine)()


def test_a_job_is_due_when_it_can_be_claimed(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    assert not bench.queue.is_due()
    bench.keep("1.2.3", 1)
    assert not bench.queue.is_due(), "the quiet period lasts"
    bench.wait(31)
    assert bench.queue.is_due()
    (job,) = bench.queue.claim("worker", 300)
    bench.settle(job, PACS)
    assert not bench.queue.is_due()


def test_a_row_is_due_at_its_own_destination(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    bench.destinations.go_live("pacs", "me", "test")
    bench.screened("1.2.3", PACS)
    assert bench.outbox.is_due("pacs") and not bench.outbox.is_due("other")
    (row,) = bench.outbox.claim("pacs", 60)
    bench.outbox.retry(row, 100, "away")
    assert not bench.outbox.is_due("pacs")
    bench.wait(101)
    assert bench.outbox.is_due("pacs")
