"""`reheatd reheat-checkpoint`: what it refuses, what it decides, and what its daemon is told."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from cli import reheat_checkpoint
from cli.checkpoint_outcome import ReheatFailed, is_decided, outcome_of
from cli.client import DaemonClient
from cli.screen import Screen
from cli.watched_daemon import WatchedDaemon
from reheatd.api.schemas import EntropyView
from reheatd.config import load_settings
from reheatd.entropy.detector import DetectorState, Verdict
from reheatd.entropy.windows import Window
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import GateResult, Job, JobStatus, ReheatRequest
from reheatd.measures import EntropyEstimate
from tests.unit.test_cli_commands import Done, fake_daemon, reheatd


@pytest.fixture
def here(tmp_path: Path, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy, a task and configurations, which is the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_policy, tmp_path / "policy")
    (tmp_path / "task.jsonl").write_text('{"prompt": "2 + 3", "answer": "5"}\n')
    (tmp_path / "shared.toml").write_text('[engine]\nurl = "http://127.0.0.1:8100"\n')
    (tmp_path / "tracked.toml").write_text('[trackers]\nnames = ["tensorboard"]\n')
    return tmp_path


def run(*arguments: str) -> Done:
    return reheatd("reheat-checkpoint", *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["policy", "--out", "policy", "--task", "task.jsonl"], "--out policy exists already"),
        (["policy", "--out", "out", "--baseline-nats", "0.8"], "--task is missing"),
        (["policy", "--out", "out", "--task", "none.jsonl"], "--task none.jsonl does not exist"),
        (["policy", "--out", "out", "--task", "task.jsonl"], "name the base that it was trained from with --reference"),
        (["nowhere", "--out", "out", "--task", "task.jsonl"], "policy.model = 'nowhere'"),
        (["policy", "--out", "out", "--task", "task.jsonl", "--reference", "policy"], "has the same weights"),
        (["policy", "--out", "out", "--task", "task.jsonl", "--reference", "none"], "policy.reference = 'none'"),
        (["policy", "--out", "out", "--task", "task.jsonl", "--baseline-nats", "0"], "entropy.baseline_nats = 0"),
        (
            ["policy", "--out", "out", "--task", "task.jsonl", "--adapter", "a", "--reference", "policy"],
            "with --adapter, MODEL is the base",
        ),
        (["policy", "--out", "out", "--task", "task.jsonl", "--adapter", "none"], "none does not exist"),
        (["policy", "--out", "out", "--task", "task.jsonl", "--config", "shared.toml"], "engine.url"),
        (
            ["policy", "--out", "out", "--task", "task.jsonl", "--config", "tracked.toml"],
            "name a folder for the files of trackers",
        ),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    arguments: list[str], says: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reheat_checkpoint, "watched_daemon", None)
    before = sorted(here.iterdir())
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert says in line
    assert sorted(here.iterdir()) == before


def window(verdict: Verdict, mean: float, *, low: int = 0) -> Window:
    estimate = EntropyEstimate(mean=mean, low=mean - 0.01, high=mean + 0.01, tokens=1000, sequences=32)
    return Window(
        version=0,
        source="schedule",
        verdict=verdict,
        detector=DetectorState(version=0, verdict=verdict, low=low),
        baseline=0.8,
        ratio=mean / 0.8,
        threshold=0.08,
        model="base",
        seed=1,
        seconds=1.0,
        estimate=estimate,
        monte_carlo=estimate,
        truncated=estimate,
        lower=mean,
        upper=None,
        distinct=1.0,
    )


@pytest.mark.parametrize(
    ("seen", "decided"),
    [
        (window("ok", 0.4), True),
        (window("warning", 0.09), True),
        (window("warning", 0.05, low=1), False),
        (window("collapsed", 0.05, low=2), True),
        (window("collapsed", 0.085), True),
    ],
)
def test_a_low_window_waits_for_its_confirmation(seen: Window, decided: bool) -> None:
    assert is_decided(seen) == decided


def job(status: JobStatus, *outcomes: str, **fields: Any) -> Job:
    gates = [GateResult.model_validate({"name": "accuracy", "outcome": each, "detail": "8 of 9"}) for each in outcomes]
    values: dict[str, Any] = {"job_id": "j1", "kind": "reheat", "trigger": "manual", "created_at": 1.0}
    return Job(**values, parent_version=0, request=ReheatRequest(), status=status, gates=gates, **fields)


@pytest.mark.parametrize(
    ("ended", "outcome", "code", "says"),
    [
        (job(JobStatus.SUCCEEDED, "passed", version=1), "reheated", 0, "j1 passed the gates"),
        (job(JobStatus.SUCCEEDED, "no_evidence", version=1), "reheated", 0, "but: gate accuracy: 8 of 9"),
        (job(JobStatus.AWAITING_APPROVAL, "no_evidence", version=1), "no_evidence", 4, "--accept-no-evidence"),
        (job(JobStatus.REJECTED, "failed", version=1, error="worse"), "rejected", 4, "worse"),
    ],
)
def test_the_end_of_the_reheat_decides_what_is_written(ended: Job, outcome: str, code: int, says: str) -> None:
    made = outcome_of(window("collapsed", 0.05), ended, None)
    assert (made.outcome, made.exit_code) == (outcome, code)
    assert says in made.reason


def test_a_reheat_that_failed_is_a_failure() -> None:
    with pytest.raises(ReheatFailed, match="out of memory"):
        outcome_of(window("collapsed", 0.05), job(JobStatus.FAILED, error="out of memory"), None)


class Running:
    """A daemon's process that lives."""

    def poll(self) -> None:
        return None


class Started:
    """Takes the place of `watched_daemon`: the daemon that answers is a test's own."""

    url = ""
    given: ClassVar[dict[str, str]] = {}

    @classmethod
    @contextmanager
    def watched(
        cls, screen: Any, config: Path | None, port: int, log: Path, environment: dict[str, str]
    ) -> Iterator[WatchedDaemon]:
        cls.given = environment
        yield WatchedDaemon(screen, Running(), DaemonClient(cls.url), log)  # type: ignore[arg-type]


def test_a_healthy_policy_ends_with_its_own_code_and_nothing_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine.toml").write_text('data_dir = "elsewhere"\n[server]\nport = 8000\n[control]\nmode = "auto"\n')
    status = {"readiness": "ready", "job": None, "measuring": None}
    seen = EntropyView(
        baseline=None, threshold=None, max_tokens=None, windows=[window("ok", 0.4)], sources=[], learning=None
    )
    answers = {
        "GET /reheatd/v1/journal?last=1000": [(200, {"entries": []})],
        "GET /reheatd/v1/entropy?last=1000": [(200, seen.model_dump(mode="json"))],
    }
    monkeypatch.setattr(WatchedDaemon, "show", lambda _: type("Status", (), status))
    monkeypatch.setattr(reheat_checkpoint, "watched_daemon", Started.watched)
    before = sorted(here.iterdir())
    with fake_daemon(**answers) as Started.url:
        done = run(
            *("policy", "--out", "out", "--task", "task.jsonl", "--baseline-nats", "0.8", "--config", "mine.toml")
        )
    assert done.returncode == 3
    assert "0.400 [0.390, 0.410]" in done.stdout and "collapsed is below 0.080" in done.stdout
    assert sorted(here.iterdir()) == before

    for name, value in Started.given.items():
        monkeypatch.setenv(name, value)
    told = load_settings(here / "mine.toml")
    assert told.data_dir.parent.parent == here and told.server.port != 8000
    assert (told.policy.model, told.entropy.baseline_nats, told.control.mode) == ("policy", 0.8, "observe")
    assert told.task.path == Path("task.jsonl")


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (RuntimeError("a bug"), True),
        (ReheatFailed("lost"), True),
        (BadInputError("no"), False),
        (SystemExit(143), False),
    ],
)
def test_the_daemons_logs_stay_where_something_failed(tmp_path: Path, error: BaseException, kept: bool) -> None:
    screen = Screen(Console(quiet=True), 0.0)
    with pytest.raises(type(error)), reheat_checkpoint._private_folder(tmp_path / "out", screen) as folder:
        (folder / "serve.log").write_text("why")
        raise error
    assert folder.exists() == kept
