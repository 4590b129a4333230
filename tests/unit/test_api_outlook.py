"""Why a verdict is what it is, and what the daemon says that it will do next."""

import time
from pathlib import Path
from typing import Any

import pytest

from reheatd.api.outlook import reason
from reheatd.api.schemas import LearningView, StatusView, ThresholdsView
from reheatd.entropy.detector import DetectorState, Verdict
from reheatd.entropy.windows import Window
from reheatd.jobs.contracts import JobStatus, RLRequest
from tests.unit.api_support import ApiWorld, Client, _Monitor, talk
from tests.unit.control_figures import window

LIMITS = ThresholdsView(collapsed=0.2, warning=0.25, too_hot=1.0, target=0.3, because="10% of the baseline")


def seen(mean: float, *, low: int = 0, high: int = 0) -> Window:
    state = DetectorState(version=0, verdict="ok", low=low, high=high)
    return window(0, "ok", mean).model_copy(update={"detector": state})


@pytest.mark.parametrize(
    ("verdict", "newest", "says"),
    [
        (None, None, "has not been measured"),
        ("ok", seen(0.5), "0.500 is above the collapse threshold 0.200 (10% of the baseline)"),
        ("warning", seen(0.22), "0.220 is below 0.250, which is near the collapse threshold 0.200"),
        ("warning", seen(0.1, low=1), "A window with the upper limit"),
        ("collapsed", seen(0.1, low=3), "3 windows in a row with the upper limit, now"),
        ("collapsed", seen(0.23), "fell below 0.200 (10% of the baseline), and is not above 0.250 again"),
        ("warning", seen(1.2, high=1), "A window with the whole interval above 1.000"),
        ("too_hot", seen(1.2, high=2), "2 windows in a row with the whole interval above 1.000"),
        ("too_hot", seen(0.9), "ran away above 1.000"),
        ("stalled", seen(0.5), "0.1 of 4.0 groups of rollouts vary"),
    ],
)
def test_a_verdict_is_explained_in_one_sentence(verdict: Verdict | None, newest: Window | None, says: str) -> None:
    learning = LearningView(steps=40, groups=4, varied=0.1, all_fail=3.5, all_pass=0.4, trends={}, notes=[])
    sentence = reason(verdict, newest, LIMITS, learning)
    assert says in sentence and sentence.endswith(".") and sentence.count(". ") == 0


def ask(folder: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, **control: Any) -> StatusView:
    """The status of an idle daemon whose policy has this verdict; the control loop does not run."""
    monkeypatch.setattr(_Monitor, "verdict", verdict)
    world = ApiWorld(folder, control=control)
    found: list[StatusView] = []

    async def story(client: Client, world: ApiWorld) -> None:
        found.append(StatusView.model_validate((await client.get("/reheatd/v1/status")).json()))

    talk(world, story)
    return found[0]


@pytest.mark.parametrize(
    ("verdict", "control", "expected"),
    [
        ("ok", {}, []),
        ("too_hot", {}, ["nothing about too_hot, which is not in control.trigger"]),
        ("collapsed", {"mode": "observe"}, ["nothing about collapsed, because control.mode is observe"]),
        ("ok", {"rl": "continuous"}, ["start a round of RL"]),
    ],
)
def test_an_idle_daemon_says_what_follows_its_verdict(
    verdict: Verdict, control: dict[str, Any], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [each.what for each in ask(tmp_path, monkeypatch, verdict, **control).next] == expected


def test_jobs_that_run_and_wait_are_what_comes_next_and_the_next_window_has_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = time.time() + 60
    monkeypatch.setattr(_Monitor, "next_at", due)

    async def story(client: Client, world: ApiWorld) -> None:
        job = world.controller.submit(RLRequest(steps=3))
        await world.until_status(job.job_id, JobStatus.RUNNING)
        other = world.controller.submit(RLRequest(steps=3))
        proposed = world.ledger.create(RLRequest(), "round", JobStatus.AWAITING_APPROVAL, 0).job
        view = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        assert [each.what for each in view.next] == [
            f"gate the version of {job.job_id}, and swap it in if it passes",
            f"start {other.job_id}",
            f"start once `reheatd jobs approve {proposed.job_id}` is called",
            "measure the entropy of policy-v0",
        ]
        assert [each.at for each in view.next] == [None, None, None, due]
        assert view.thresholds is not None and view.thresholds.because == "50% of the baseline"

    talk(ApiWorld(tmp_path), story)
