"""Fixtures of the unit tests."""

import pytest

from reheatd.control import training, waiting


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control loop waits for nothing longer than a moment."""
    monkeypatch.setattr(waiting, "RETRY_S", 0.01)
    monkeypatch.setattr(training, "WORKER_CHECK_S", 0.01)
    monkeypatch.setattr(training, "CANCEL_GRACE_S", 0.1)
