"""The reference's entropy becomes the baseline, and its engine is gone before the policy's starts."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from reheatd.config import load_settings
from reheatd.database import connect
from reheatd.engine.launch import EngineCommand
from reheatd.entropy.answer_length import AnswerLength
from reheatd.entropy.series import EntropySeries
from reheatd.errors import EngineError
from reheatd.process.supervisor import Supervisor
from reheatd.reference import measurement
from reheatd.reference.measurement import ReferenceMeasurement
from tests.unit.entropy_support import NOISE, SETTINGS, SimulatedEngine, exact_entropy, make_meter


class SimulatedClient(SimulatedEngine):
    """A client of the engine that was started, which is a process that does nothing."""

    started: list[list[str]]

    async def __aenter__(self) -> "SimulatedClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def wait_ready(self, timeout_s: float) -> None:
        self.started = [process.cmdline() for process in children()]


def children() -> set[psutil.Process]:
    """The processes that run below this one."""
    return set(psutil.Process().children(recursive=True))


def measure(folder: Path, client: SimulatedClient, monkeypatch: pytest.MonkeyPatch) -> EntropySeries:
    """Runs the measurement of a reference with an engine that is `client`; its process must be gone afterwards."""

    def command(settings: Any, model: Path, port: int, device: str) -> EngineCommand:
        return EngineCommand([sys.executable, "-c", "import time; time.sleep(600)", str(model)], {})

    monkeypatch.setattr(measurement, "engine_command", command)
    monkeypatch.setattr(measurement, "EngineClient", lambda url: client)
    settings = load_settings(None, {"data_dir": folder}).model_copy(update={"entropy": SETTINGS})
    db = connect(folder / "reheatd.sqlite3")
    series = EntropySeries(db, "key")
    base, policy = folder / "base", folder / "policy"
    length = AnswerLength(SETTINGS.window_tokens, max_model_len=1024)
    asked = ReferenceMeasurement(settings, "cpu", base, policy, series, lambda _: make_meter(client), length)
    others = children()  # the engine that tests of this process share
    try:
        asyncio.run(asked.run(Supervisor(settings.logs_dir)))
    finally:
        assert children() <= others
    assert any(line[-3:] == [str(base), "--tokenizer", str(policy)] for line in client.started)
    return series


def test_the_reference_answers_the_policy_s_prompts_and_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = measure(tmp_path, SimulatedClient(), monkeypatch).baseline()
    assert baseline is not None and baseline.mean == pytest.approx(exact_entropy(1.0), abs=NOISE)
    assert baseline.sequences == SETTINGS.baseline_windows * SETTINGS.probe_count


def test_a_reference_that_cannot_be_sampled_leaves_no_engine_and_no_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimulatedClient()
    client.failures = [EngineError("out of memory")]
    with pytest.raises(EngineError, match="out of memory"):
        measure(tmp_path, client, monkeypatch)
    assert EntropySeries(connect(tmp_path / "reheatd.sqlite3"), "key").baseline() is None
