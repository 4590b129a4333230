"""The curve of stored windows: dips stay, and what was read is not read again."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from reheatd.database import connect
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.history import Curve, EntropyHistory
from reheatd.entropy.live import LiveSeries, LiveWindow
from reheatd.entropy.series import EntropySeries
from tests.unit.control_figures import entropy, window


def curve(means: list[float]) -> Curve:
    values = np.array(means)
    places = np.arange(len(means))
    versions, ways = np.array(["0"] * len(means), dtype=object), np.ones(len(means), dtype=np.int8)
    return Curve(places, places.astype(float), versions, ways, values, values - 0.1, values + 0.1)


@pytest.mark.parametrize("points", [4, 5, 51, 400])
def test_a_thinned_curve_keeps_its_dips_its_peaks_and_its_end(points: int) -> None:
    means = [1.0] * 10_000
    means[4321], means[7777], means[-1] = 0.2, 3.0, 1.5
    thinned = curve(means).thinned(points)
    assert len(thinned) <= points
    assert thinned.mean.min() == 0.2 and thinned.mean.max() == 3.0
    assert thinned.time[-1] == 9999 and thinned.mean[-1] == 1.5
    assert (np.diff(thinned.time) > 0).all()
    assert np.allclose(thinned.high - thinned.mean, 0.1)


def test_a_short_curve_stays_whole() -> None:
    assert curve([1.0, 2.0, 3.0]).thinned(4).mean.tolist() == [1.0, 2.0, 3.0]


def test_a_stretch_has_both_its_ends() -> None:
    assert curve([1.0, 2.0, 3.0, 4.0]).between(1, 2).mean.tolist() == [2.0, 3.0]
    assert curve([1.0, 2.0]).between(None, None).mean.tolist() == [1.0, 2.0]


def test_the_history_reads_on_and_survives_rows_that_cannot_be_read(tmp_path: Path) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    series, live = EntropySeries(db, "key"), LiveSeries(db, confidence=0.95)
    history = EntropyHistory(tmp_path / "reheatd.sqlite3", "key")

    async def story() -> None:
        assert len(await history.probes()) == 0
        series.append(window(3, "ok", 1.9), TailMoments())
        EntropySeries(db, "another").append(window(3, "ok", 9.9), TailMoments())
        with db:
            db.execute("INSERT INTO entropy_windows (time, version, key, window) VALUES (1, 0, 'key', '{damaged')")
        series.append(window(4, "ok", 0.7), TailMoments())
        first = await history.probes()
        assert first.mean.tolist() == [1.9, 0.7] and first.version.tolist() == ["3", "4"]
        assert first.low.tolist() == pytest.approx([1.85, 0.65])
        with db:
            db.execute("UPDATE entropy_windows SET window = '{}' WHERE version = 3")
        series.append(window(4, "ok", 0.8), TailMoments())
        assert (await history.probes()).mean.tolist() == [1.9, 0.7, 0.8], "what was read is kept"
        for source, mean in (("live", 1.1), ("rollout", 2.2)):
            version = "policy-v4" if source == "live" else "rl-1"
            live.append(
                LiveWindow(version=version, source=source, measured_by="tap", estimate=entropy(mean), by_position=[])
            )
        assert (await history.live("rollout")).mean.tolist() == [2.2]
        assert (await history.live("live")).version.tolist() == ["policy-v4"]
        assert len(await history.live("nobody")) == 0
        assert len((await history.live("live")).measured_by("tap")) == 1
        assert len((await history.live("live")).measured_by("plug_in")) == 0

    asyncio.run(story())
    db.close()


def test_a_long_history_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.entropy.history.ROWS_AT_ONCE", 7)
    db = connect(tmp_path / "reheatd.sqlite3")
    series = EntropySeries(db, "key")
    row = window(0, "ok", 1.0).model_dump_json()
    with db:
        db.executemany(
            "INSERT INTO entropy_windows (time, version, key, window) VALUES (?, 0, 'key', ?)",
            [(float(number), row) for number in range(40)],
        )
    assert series.last(1)
    history = EntropyHistory(tmp_path / "reheatd.sqlite3", "key")
    assert asyncio.run(history.probes()).time.tolist() == list(range(40))
    db.close()
