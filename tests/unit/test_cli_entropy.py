"""`reheatd entropy` for people: the probes, their course by position, and what was measured elsewhere."""

import pytest

from reheatd.entropy.windows import LiveWindow
from reheatd.measures import PositionMean
from tests.unit.control_figures import BASELINE, entropy, window
from tests.unit.status_figures import status
from tests.unit.test_cli_commands import fake_daemon, reheatd

POSITIONS = [PositionMean(position=0, tokens=32, mean=1.25), PositionMean(position=1, tokens=32, mean=0.5)]
PROBED = window(2, "ok", 1.6).model_copy(update={"by_position": POSITIONS})
ROLLOUTS = LiveWindow(
    version="rl-9",
    source="rollout",
    measured_by="monte_carlo",
    estimate=entropy(0.31),
    by_position=POSITIONS,
    parent=2,
    step=7,
)


def answer(*sources: LiveWindow) -> dict[str, object]:
    return {
        "baseline": entropy(BASELINE).model_dump(),
        "threshold": 0.2,
        "max_tokens": None,
        "learning": None,
        "windows": [PROBED.model_dump(mode="json")],
        "sources": [source.model_dump(mode="json") for source in sources],
    }


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.render.console.width", 160)


def test_each_source_has_its_own_row_apart_from_the_probes() -> None:
    with fake_daemon(**{"GET /reheatd/v1/entropy?last=60": [(200, answer(ROLLOUTS))]}) as url:
        lines = reheatd("entropy", "--url", url).stdout.splitlines()
    (verdict,) = (line for line in lines if "of the baseline" in line)
    assert "1.600 [1.550, 1.650]" in verdict and "0.310" not in verdict
    assert "by position  0: 1.25  1: 0.50" in lines
    (row,) = (line.split("  ") for line in lines if line.startswith("rollout"))
    cells = [cell.strip() for cell in row if cell.strip()]
    assert cells[:4] == ["rollout", "rl-9, step 7", "monte_carlo", "0.310 [0.260, 0.360]"]


def test_a_plan_needs_the_length_that_the_daemon_found() -> None:
    answers = {
        "GET /reheatd/v1/status": [(200, status().model_dump(mode="json"))],
        "GET /reheatd/v1/entropy?last=1": [(200, answer())],
    }
    with fake_daemon(**answers) as url:
        done = reheatd("entropy", "plan", "--width", "0.1", "--url", url)
    assert done.returncode != 0 and "`reheatd entropy --measure`" in done.stderr
