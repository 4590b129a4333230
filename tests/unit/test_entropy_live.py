"""Windows from the sums that engines report: intervals, differences, restarts on either side."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import pytest

from reheatd.database import connect
from reheatd.entropy.estimators import clustered_interval
from reheatd.entropy.live import LiveSeries, TapListener, close_windows_every, tap_socket
from reheatd.tap.moments import Moments
from reheatd.tap.seal import Sealer
from reheatd.tap.wire import TapTotals
from tests.waiting import until

rng = np.random.default_rng(0)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    made = connect(tmp_path / "reheatd.sqlite3")
    yield made
    made.close()


def moments(*sequences: list[float]) -> Moments:
    made = Moments()
    for sequence in sequences:
        made.add(sequence)
    return made


def report(sums: Moments, *, run: str = "r1", version: str = "policy-v1", source: str = "live") -> TapTotals:
    return TapTotals(run, version, source, sums)


def test_the_interval_is_that_of_the_sequences_themselves() -> None:
    sequences = [rng.gamma(2.0, 1.0, rng.integers(1, 60)).tolist() for _ in range(40)]
    exact = clustered_interval(sequences, 0.95)
    found = moments(*sequences).interval(0.95)
    assert found is not None
    assert found.model_dump() == pytest.approx(exact.model_dump())


def test_sequences_that_are_all_alike_have_an_interval_of_width_zero() -> None:
    found = moments(*[[0.1] * 7] * 5).interval(0.95)
    assert found is not None
    assert found.high - found.low < 1e-6


def test_positions_are_counted_by_powers_of_two() -> None:
    sums = moments([1.0, 2.0, 3.0, 5.0, 7.0], [2.0])
    found = [(each.position, each.tokens, each.mean) for each in sums.by_position()]
    assert found == [(0, 2, 1.5), (1, 1, 2.0), (2, 2, 4.0), (4, 1, 7.0)]
    # The last bucket takes the rest, however late it comes.
    last = moments([0.5] * (1 << 16)).by_position()[-1]
    assert (last.position, last.tokens, last.mean) == (1 << 14, (1 << 16) - (1 << 14), 0.5)


def test_a_window_holds_what_came_since_the_last_one(db: Connection) -> None:
    series = LiveSeries(db, confidence=0.95)
    first = moments([1.0], [2.0])
    series.take(report(first))
    assert [window.estimate.mean for window in series.close_windows()] == [1.5]
    series.take(report(first + moments([5.0])))
    assert series.close_windows() == []  # one sequence has no interval: it waits
    series.take(report(first + moments([5.0], [7.0])))
    (window,) = series.close_windows()
    assert (window.estimate.mean, window.estimate.tokens) == (6.0, 2)
    assert series.close_windows() == []


def test_versions_sources_and_engines(db: Connection) -> None:
    series = LiveSeries(db, confidence=0.95)
    series.take(report(moments([1.0], [1.0])))
    series.take(report(moments([3.0], [3.0]), run="r2"))  # a second replica
    series.take(report(moments([9.0], [9.0]), run="r3", source="probe"))
    series.take(report(moments([5.0], [5.0]), run="r4", version="policy-v2"))
    means = {(window.version, window.source): window.estimate.mean for window in series.close_windows()}
    assert means == {("policy-v1", "live"): 2.0, ("policy-v1", "probe"): 9.0, ("policy-v2", "live"): 5.0}
    assert [window.estimate.mean for window in series.last(9, "probe")] == [9.0]


def test_the_newest_of_each_source_and_way_of_measuring(db: Connection) -> None:
    series = LiveSeries(db, confidence=0.95)
    for mean in (1.0, 2.0):
        series.take(report(moments(*[[mean]] * 4), run=f"r{mean}", source="rollout"))
        series.close_windows()
    measured_by_job = series.newest()[0].model_copy(update={"measured_by": "monte_carlo", "parent": 3, "step": 7})
    series.append(measured_by_job)
    series.add("policy-v1", "live", "plug_in", [5.0])
    series.add("policy-v1", "live", "plug_in", [5.0])
    series.close_windows()
    found = [(window.source, window.measured_by, window.estimate.mean) for window in series.newest()]
    assert found == [("rollout", "tap", 2.0), ("rollout", "monte_carlo", 2.0), ("live", "plug_in", 5.0)]
    assert (series.newest()[1].parent, series.newest()[1].step) == (3, 7)


def test_a_restart_of_the_daemon_neither_loses_nor_repeats(db: Connection) -> None:
    before = LiveSeries(db, confidence=0.95)
    sums = moments([1.0], [1.0])
    before.take(report(sums))
    before.close_windows()
    after = LiveSeries(db, confidence=0.95)
    after.take(report(sums))  # repeated by the tap
    assert after.close_windows() == []
    after.take(report(sums + moments([4.0], [4.0])))
    assert [window.estimate.mean for window in after.close_windows()] == [4.0]


def test_a_restart_of_the_engine_begins_at_zero(db: Connection) -> None:
    series = LiveSeries(db, confidence=0.95)
    series.take(report(moments([1.0], [1.0], [1.0])))
    series.close_windows()
    series.take(report(moments([2.0], [2.0]), run="r2"))
    assert [window.estimate.mean for window in series.close_windows()] == [2.0]


def test_datagrams_of_taps_arrive_and_others_are_dropped_and_counted(
    db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> tuple[list[float], int]:
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            series = LiveSeries(db, confidence=0.95)
            listener = TapListener(tap_socket("127.0.0.1:0"), "key")
            running = asyncio.gather(listener.run(series), close_windows_every(0.05, series))
            tap, stranger = Sealer("key"), Sealer("another key")
            old = tap.seal(report(moments([9.0], [9.0])).encode())
            new = tap.seal(report(moments([3.0], [3.0])).encode())
            forged = stranger.seal(report(moments([7.0], [7.0])).encode())
            bare = report(moments([8.0], [8.0])).encode()
            host, port = listener.address.split(":")
            for datagram in (b"nonsense", tap.seal(b"[1]")[:-1], forged, bare, new, old, new):
                sender.sendto(datagram, (host, int(port)))
            await until(lambda: series.last(1) and series.rejected == 6)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            listener.close()
            return [window.estimate.mean for window in series.last(5)], series.rejected

    assert asyncio.run(body()) == ([3.0], 6)
    assert caplog.text.count("dropped") == 1  # anybody can send any number


def test_what_is_forgotten_after_a_day_is_not_counted_again(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    monkeypatch.setattr("time.time", lambda: now)
    series = LiveSeries(db, confidence=0.95)
    series.take(report(moments([1.0], [1.0]), run="idle", version="policy-v1"))
    series.add("policy-v1", "live", "plug_in", [4.0])
    series.add("policy-v1", "live", "plug_in", [4.0])
    assert len(series.close_windows()) == 2
    now += 2 * 86_400
    series.take(report(moments([2.0], [2.0]), run="busy", version="policy-v2"))
    assert [window.version for window in series.close_windows()] == ["policy-v2"]
    assert series.close_windows() == []
    for _ in range(2):
        series.add("policy-v1", "live", "plug_in", [6.0])
    assert [window.estimate.mean for window in series.close_windows()] == [6.0]
