"""Rollouts of a job that fit a filter, page by page."""

from pathlib import Path

import pytest

from reheatd.errors import ReheatdError
from reheatd.jobs.rollout_pages import RolloutFilter, read_page
from reheatd.jobs.rollouts import RolloutRecorder
from tests.unit.report_support import rollout_row


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Steps 0 to 4 with rewards 0, 1/4, ... 1 each; those of step 0 were not cut off."""
    recorder = RolloutRecorder(tmp_path / "rollouts.jsonl", steps=5, keep=1000)
    for step in range(5):
        recorder.record([rollout_row(step, quarter / 4) for quarter in range(5)])
    return tmp_path / "rollouts.jsonl"


def test_the_newest_step_comes_first_and_a_step_in_its_order(file: Path) -> None:
    page = read_page(file, RolloutFilter(), 1, 7)
    assert (page.total, page.kept, page.steps) == (25, 25, [0, 1, 2, 3, 4])
    assert [number for number, _ in page.rows] == [21, 22, 23, 24, 25, 16, 17]
    assert [(row.step, row.reward) for _, row in page.rows[4:]] == [(4, 1), (3, 0), (3, 0.25)]
    assert [number for number, _ in read_page(file, RolloutFilter(), 4, 7).rows] == [2, 3, 4, 5]
    assert read_page(file, RolloutFilter(), 5, 7).rows == []


@pytest.mark.parametrize(
    ("wanted", "total"),
    [
        (RolloutFilter(step=2), 5),
        (RolloutFilter(step=9), 0),
        (RolloutFilter(least=0.5), 15),
        (RolloutFilter(most=0.25), 10),
        (RolloutFilter(least=0.25, most=0.5, step=1), 2),
        (RolloutFilter(truncated=True), 20),
        (RolloutFilter(truncated=False, least=1), 1),
    ],
)
def test_only_what_fits_is_counted(file: Path, wanted: RolloutFilter, total: int) -> None:
    page = read_page(file, wanted, 1, 100)
    assert len(page.rows) == page.total == total


def test_rollouts_without_rewards_fit_no_range(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    assert read_page(file, RolloutFilter(), 1, 20).kept == 0
    RolloutRecorder(file, steps=1, keep=1).record([rollout_row(0)])
    assert read_page(file, RolloutFilter(), 1, 20).total == 1
    assert read_page(file, RolloutFilter(least=0), 1, 20).total == 0


def test_a_damaged_line_is_named(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:3], '{"step": 1}\n', *lines[3:]]))
    with pytest.raises(ReheatdError, match=r"rollouts\.jsonl, line 4 is damaged"):
        read_page(file, RolloutFilter(), 1, 20)
