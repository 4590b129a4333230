"""Whose entropy the daemon takes as the baseline, and when the reference is measured."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from reheatd.assembly import Entropy, build_adapters, build_entropy, build_reference
from reheatd.config import Settings, load_settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.database import connect
from reheatd.engine.pool import EnginePool
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.errors import MissingExtraError
from reheatd.measures import EntropyEstimate
from reheatd.reference.answers import ReferenceAnswers
from reheatd.reference.files import Reference
from reheatd.reference.measurement import ReferenceMeasurement

MEASURED = EntropyEstimate(mean=0.8, low=0.7, high=0.9, tokens=1000, sequences=32)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "reheatd.sqlite3")
    yield connection
    connection.close()


class Start:
    """What a start of the daemon with these settings builds for entropy."""

    def __init__(self, db: sqlite3.Connection, folder: Path, reference: str | None = None, **entropy: float) -> None:
        policy = {"model": "checkpoint", "max_model_len": 1024} | ({"reference": reference} if reference else {})
        tables = {"policy": policy, "entropy": entropy, "engine": {"device": "cpu"}, "rl": {"max_tokens": 48}}
        self.settings: Settings = load_settings(None, {"data_dir": folder, **tables})
        self.policy = ServedPolicy("checkpoint", folder, "digest", vocabulary=100)
        self.reference = Reference(folder / reference, f"digest of {reference}") if reference else None
        pool = EnginePool([])
        adapters = build_adapters(self.settings, db, pool)
        self.lengths = RolloutLengths(db, self.policy.digest, self.settings.policy)
        self.entropy: Entropy = build_entropy(self.settings, self.policy, self.reference, db, pool, adapters)

    @property
    def monitor(self) -> EntropyMonitor:
        return self.entropy.monitor

    def measurement(self) -> ReferenceMeasurement | None:
        return build_reference(self.settings, "cpu", None, self.policy, self.reference, self.entropy, self.lengths)


def test_a_reference_is_measured_once_and_another_one_anew(db: sqlite3.Connection, tmp_path: Path) -> None:
    first = Start(db, tmp_path, "base")
    measurement = first.measurement()
    assert measurement is not None and measurement.reference == tmp_path / "base"
    measurement.series.save_baseline(MEASURED)
    assert first.monitor.baseline == MEASURED
    assert first.measurement() is not None  # it has not answered the held-out problems yet
    key = measurement.questions.key()
    assert key is not None
    texts = [["42"] * key.samples for _ in measurement.questions.data.held_out]
    ReferenceAnswers(key=key, texts=texts).write(first.settings.reference_answers_file)
    again = Start(db, tmp_path, "base")
    assert again.measurement() is None and again.monitor.baseline == MEASURED
    assert Start(db, tmp_path, "other base").measurement() is not None


def test_a_given_baseline_is_known_at_once_and_belongs_to_its_value(db: sqlite3.Connection, tmp_path: Path) -> None:
    for nats in (0.8, 0.5):
        start = Start(db, tmp_path, baseline_nats=nats)
        assert start.measurement() is None
        assert start.monitor.baseline is not None and start.monitor.baseline.mean == nats
        assert start.monitor.thresholds is not None and start.monitor.thresholds.collapsed == max(0.1 * nats, 0.08)
    assert Start(db, tmp_path).monitor.baseline is None


def test_a_reference_without_vllm_names_the_way_out(
    db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start(db, tmp_path, "base")
    monkeypatch.setattr("reheatd.extras.missing_modules", lambda *modules: "vllm")
    with pytest.raises(MissingExtraError, match=r"policy\.reference .* entropy\.baseline_nats"):
        start.measurement()
