"""`reheatd demo`: shows the whole loop on the real parts.

The demo starts the daemon exactly as `reheatd serve` does, measures the baseline and collapses the policy on purpose
(TS-OPSD with tau < 1 cools). After that it only watches: the daemon notices, reheats, gates, swaps and continues RL by
itself, while a client keeps asking questions over the OpenAI API.
"""

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cli import render
from cli.child_daemon import ended_by_signals
from cli.demo_client import AskingClient, Tally
from cli.demo_plot import plot_timeline
from cli.options import JsonOption
from cli.screen import Screen
from cli.watched_daemon import WatchedDaemon, watched_daemon
from reheatd.client.waiting import is_settled
from reheatd.config import load_settings
from reheatd.control.states import State
from reheatd.errors import MissingExtraError, ReheatdError
from reheatd.jobs.contracts import Job, ReheatRequest
from reheatd.process.instance import url_of
from reheatd.process.ports import reserve_port

T = TypeVar("T")

CONFIG = """\
# Written by `reheatd demo`. It differs from the defaults in easy problems with short answers, and in short training and
# short reports. What counts as collapsed, the teacher and the target are the defaults.
data_dir = {data_dir}

[server]
port = {port}

[workers]
report_rollouts = 8

[entropy]
probe_count = 16
max_tokens = 24
baseline_windows = 2

[task]
path = {task}
eval_count = 24
eval_samples = 1
eval_temperature = 0  # one greedy answer each: the quickest look at accuracy
eval_max_tokens = 64  # an answer that is cut off before its number counts as wrong

[gate]
accuracy_tolerance = 0.4  # the collapse on purpose may cost that much
no_evidence = "pass"  # nobody is there to be asked

[reheat]
prompts_per_step = 8
max_tokens = 24

[rl]
steps = 2
max_tokens = 24
"""
PROBLEMS = [
    {"prompt": f"What is {first} + {second}?", "answer": str(first + second)}
    for first in range(1, 10)
    for second in range(1, 10)
]
"""Problems that a policy of this size solves sometimes, so that RL has something to learn from."""
COLLAPSE = ReheatRequest(
    tau=0.5,
    divergence="reverse_kl",
    learning_rate=1e-3,
    prompts_per_step=8,
    target_ratio=0.06,
)
"""The job that collapses the policy. The live teacher sharpens what it has sharpened
before, and the reverse divergence makes the student drop what its cold teacher drops."""
TARGET_TOLERANCE = 0.15
STEP_TIMEOUT_S = 900.0


class DemoError(ReheatdError, RuntimeError):
    """The demonstration did not do what it should show.

    What to do: The message names the daemon's log. Run the demo again; if it fails again, `reheatd doctor` says
    what the machine lacks.
    """

    code = "demo_failed"


@dataclass(frozen=True)
class Stage:
    """One row of the table: a version that was promoted and its measured entropy, in nats per token."""

    name: str
    version: int
    parent: int | None
    entropy: float
    low: float
    high: float
    windows: int


@dataclass(frozen=True)
class Outcome:
    """The outcome that `--json` prints and `result.json` keeps."""

    stages: list[Stage]
    target_entropy: float
    target_error: float
    """Relative distance of the reheated version's entropy, measured after the swap, from its target."""
    seconds: dict[str, float]
    """Times from the collapsed version's promotion to detection, to dispatch, to the swap and to the swap after RL; and
    of the whole run."""
    requests_sent: int
    requests_failed: int
    answers_by_model: dict[str, int]
    demo_seconds: float = 0.0
    """Time from the start of the command until everything is stopped and written."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the daemon's data, the timeline and the result.")] = Path(
        "demo-output"
    ),
    config: Annotated[Path | None, typer.Option(help="Configuration to use instead of the demo's own.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Collapse a policy on purpose and watch the daemon bring it back."""
    missing = [name for name in ("matplotlib", "openai", "torch", "vllm") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the demo needs {', '.join(missing)}; install everything with `make setup`, or "
            "`pip install 'reheatd[worker,engine-cpu]'`"
        )
    console = Console(stderr=json_output, highlight=False, soft_wrap=True)
    started = time.time()
    run_dir = output / time.strftime("run-%Y%m%d-%H%M%S")
    run_dir.mkdir(parents=True)
    if config is None:
        config = run_dir / "reheatd.toml"
        task = run_dir / "sums.jsonl"
        task.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
        data_dir = json.dumps(str(run_dir / "data"))
        config.write_text(CONFIG.format(data_dir=data_dir, task=json.dumps(str(task)), port=reserve_port()))
    screen = Screen(console, started)
    server = load_settings(config).server
    url = url_of(server.host, server.port, server.scheme)
    admin_url = url if server.admin_port is None else url_of(server.admin_host, server.admin_port, server.scheme)
    with ended_by_signals(), screen:
        screen.say(f"starting the daemon: reheatd serve --config {config}")
        with watched_daemon(screen, config, admin_url, run_dir / "serve.log") as daemon:
            outcome = Demonstration(daemon, url, screen, run_dir, started).run()
    outcome = replace(outcome, demo_seconds=time.time() - started)
    (run_dir / "result.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    _print_tables(console, outcome)
    console.print(f"timeline: {run_dir / 'timeline.png'}; everything else: {run_dir}")
    if json_output:
        render.print_json(asdict(outcome))
    if outcome.requests_failed or not _reached(outcome):
        raise DemoError(
            f"{outcome.requests_failed} of {outcome.requests_sent} requests failed, and the reheated entropy is "
            f"{outcome.target_error:.0%} off its target; the daemon's log is {run_dir / 'serve.log'}"
        )
    if not json_output:
        print(f"RESULT demo_seconds={outcome.demo_seconds:.1f}")


class Demonstration:
    """One run, with the client in a thread."""

    def __init__(self, daemon: WatchedDaemon, url: str, screen: Screen, run_dir: Path, started: float) -> None:
        self._watched = daemon
        self._daemon = daemon.client
        self._url = url
        self._say = screen.say
        self._run_dir = run_dir
        self._started = started

    def run(self) -> Outcome:
        client = AskingClient(self._url)
        client.start()
        try:
            self._play()
        finally:
            tally = client.stop()
        return self._outcome(tally)

    def _play(self) -> None:
        baseline = self._wait("the baseline", lambda: self._watched.show().baseline)
        self._say(
            f"baseline entropy {baseline.mean:.3f} [{baseline.low:.3f}, {baseline.high:.3f}] nats per token; "
            "a client asks questions from here to the end"
        )
        job = self._daemon.submit_job(COLLAPSE)
        self._say(f"collapsing the policy on purpose: {job.job_id}; hands off after that")
        for trigger, what in (
            ("manual", "the collapse"),
            ("collapse", "the daemon to notice and reheat"),
            ("follow_up", "continued RL"),
        ):
            job = self._wait(what, lambda trigger=trigger: self._finished(trigger))
        self._wait("the last version's entropy", lambda: self._measured(job.version))

    def _outcome(self, tally: Tally) -> Outcome:
        entries = self._watched.entries()
        jobs = {job.trigger: job for job in self._watched.jobs()}
        cooled, reheated, continued = jobs["manual"], jobs["collapse"], jobs["follow_up"]
        baseline = self._watched.status().baseline
        assert baseline is not None
        assert reheated.version is not None
        lineage = self._daemon.adapter(reheated.version).lineage
        assert lineage is not None and lineage.target_entropy is not None
        target = lineage.target_entropy
        live = {entry.version: entry.time for entry in entries if entry.event == "promoted"}
        collapsed_at = live[cooled.version]
        detected_at = next(entry.time for entry in entries if entry.to_state is State.COLLAPSED)
        dispatched_at = next(
            entry.time for entry in entries if entry.job_id == reheated.job_id and entry.to_state is State.REHEATING
        )
        stages = [Stage("baseline", 0, None, baseline.mean, baseline.low, baseline.high, 0)]
        for name, job in (("collapsed", cooled), ("reheated", reheated), ("after RL", continued)):
            stages.append(self._stage(name, job))
        plot_timeline(
            self._run_dir / "timeline.png",
            started=self._started,
            windows=self._watched.windows(),
            baseline=baseline.mean,
            threshold=self._daemon.entropy(last=1).threshold,
            target=target,
            promotions=[(when, f"policy-v{version}") for version, when in live.items()],
            latencies=tally.latencies,
        )
        for error in tally.errors[:5]:
            self._say(f"the client saw: {error}")
        return Outcome(
            stages=stages,
            target_entropy=target,
            target_error=abs(stages[2].entropy / target - 1),
            seconds={
                "collapse to detection": detected_at - collapsed_at,
                "collapse to dispatch": dispatched_at - collapsed_at,
                "collapse to reheated policy live": live[reheated.version] - collapsed_at,
                "collapse to RL-continued policy live": live[continued.version] - collapsed_at,
                "whole run": time.time() - self._started,
            },
            requests_sent=tally.sent,
            requests_failed=tally.failed,
            answers_by_model=dict(sorted(tally.by_model.items())),
        )

    def _stage(self, name: str, job: Job) -> Stage:
        """The entropy of the version that a job made: the mean over its windows, with their mean interval."""
        assert job.version is not None
        estimates = [window.estimate for window in self._watched.windows(job.version)]
        if not estimates:
            raise DemoError(f"policy-v{job.version} was replaced before its entropy was measured; see the journal")
        mean, low, high = (sum(getattr(e, key) for e in estimates) / len(estimates) for key in ("mean", "low", "high"))
        return Stage(name, job.version, job.parent_version, mean, low, high, len(estimates))

    def _wait(self, what: str, poll: Callable[[], T | None]) -> T:
        return self._watched.wait(what, poll, timeout_s=STEP_TIMEOUT_S)

    def _finished(self, trigger: str) -> Job | None:
        """The newest job with this trigger, once it has succeeded.

        Raises:
            DemoError: The job ended without success, or asks for approval of its version.
        """
        self._watched.tell()
        jobs = [job for job in self._watched.jobs() if job.trigger == trigger]
        if not jobs or not is_settled(jobs[-1]):
            return None
        if jobs[-1].status != "succeeded":
            raise DemoError(f"{jobs[-1].job_id} {jobs[-1].status}: {jobs[-1].error}; see {self._run_dir / 'serve.log'}")
        return jobs[-1]

    def _measured(self, version: int | None) -> bool | None:
        self._watched.tell()
        return True if self._watched.windows(version) else None


def _reached(outcome: Outcome) -> bool:
    """Whether the interval of the reheated version's entropy reaches into the tolerance around the target."""
    reheated, target = outcome.stages[2], outcome.target_entropy
    return reheated.low <= target * (1 + TARGET_TOLERANCE) and reheated.high >= target * (1 - TARGET_TOLERANCE)


def _print_tables(console: Console, outcome: Outcome) -> None:
    table = Table(title="Entropy, nats per token", title_justify="left")
    for column in ("stage", "version", "parent", "entropy", "95% interval", "windows"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in outcome.stages:
        table.add_row(
            stage.name,
            f"policy-v{stage.version}",
            "" if stage.parent is None else f"policy-v{stage.parent}",
            f"{stage.entropy:.3f}",
            f"{stage.low:.3f} to {stage.high:.3f}",
            str(stage.windows) if stage.windows else "pooled",
        )
    console.print(table)
    console.print(f"reheat target {outcome.target_entropy:.3f}, reached within {outcome.target_error:.1%}")
    facts = Table(show_header=False)
    for name, value in outcome.seconds.items():
        facts.add_row(name, f"{value:.1f} s")
    facts.add_row("requests sent", str(outcome.requests_sent))
    facts.add_row("requests failed", str(outcome.requests_failed))
    facts.add_row("answered by", ", ".join(f"{model} {count}" for model, count in outcome.answers_by_model.items()))
    console.print(facts)
