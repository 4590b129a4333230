"""The series across restarts of the daemon."""

from pathlib import Path

import numpy as np
import pytest

from reheatd.database import connect
from reheatd.entropy.detector import DetectorState, Verdict
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.regime import Run
from reheatd.entropy.series import EntropySeries, series_key
from reheatd.entropy.windows import Window
from reheatd.measures import EntropyEstimate

ESTIMATE = EntropyEstimate(mean=1.5, low=1.4, high=1.6, tokens=100, sequences=4)
KEY = series_key("model", "probes", max_tokens=48, top_k=20, windows=3)


def window(version: int, low: int = 0) -> Window:
    verdict: Verdict = "warning" if low else "ok"
    return Window(
        version=version,
        model=f"policy-v{version}",
        source="schedule",
        verdict=verdict,
        detector=DetectorState(version=version, verdict=verdict, low=low, run=Run(lowest=1.5, recent=[1.5])),
        baseline=2.0,
        ratio=0.75,
        threshold=0.2,
        estimate=ESTIMATE,
        monte_carlo=ESTIMATE,
        truncated=ESTIMATE,
        lower=1.2,
        upper=None,
        distinct=1.0,
        seed=3,
        seconds=2.5,
    )


TAIL = TailMoments.of(np.array([[1.0, -4.0, -2.0], [1.0, -6.0, -1.0]]), np.array([8.0, 9.0]))


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "data" / "reheatd.sqlite3"
    db = connect(file)
    series = EntropySeries(db, KEY)
    written = [window(1), window(1, low=1), window(2, low=1)]
    for one in written:
        series.append(one, TAIL)
    series.save_baseline(ESTIMATE)
    fitted = series.tail_moments().fit()
    db.close()

    db = connect(file)
    series = EntropySeries(db, KEY)
    assert series.last(10) == written
    assert series.last(2) == written[1:]
    assert series.last(10, version=1) == written[:2]
    assert series.baseline() == ESTIMATE
    assert series.detector_state() == written[-1].detector
    assert series.tail_moments().fit() == fitted
    assert series.tail_moments().draws == pytest.approx(2 + 2 * 0.98 + 2 * 0.98**2)
    db.close()


@pytest.mark.parametrize(
    "other",
    [
        series_key("another model", "probes", max_tokens=48, top_k=20, windows=3),
        series_key("model", "other probes", max_tokens=48, top_k=20, windows=3),
        series_key("model", "probes", max_tokens=32, top_k=20, windows=3),
        series_key("model", "probes", max_tokens=48, top_k=10, windows=3),
        series_key("model", "probes", max_tokens=48, top_k=20, windows=5),
        series_key("model", "probes", max_tokens=48, top_k=20, windows=3, baseline="reference"),
        series_key("model", "probes", max_tokens=48, top_k=20, windows=3, baseline="0.8 nats"),
    ],
)
def test_another_model_or_setting_is_another_series(tmp_path: Path, other: str) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    series = EntropySeries(db, KEY)
    series.append(window(1), TAIL)
    series.save_baseline(ESTIMATE)
    changed = EntropySeries(db, other)
    assert changed.last(10) == []
    assert changed.baseline() is None
    assert changed.detector_state() is None
    assert changed.tail_moments().draws == 0
    assert EntropySeries(db, KEY).last(10) != []
    db.close()
