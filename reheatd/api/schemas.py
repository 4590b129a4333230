"""The answers of the admin API that are not contracts of another package."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, RootModel

from reheatd.adapters.lineage import VersionInfo
from reheatd.control.event_kinds import Event
from reheatd.control.journal import JournalEntry, Pause
from reheatd.control.states import State
from reheatd.entropy.detector import Verdict
from reheatd.entropy.windows import LiveWindow, MeasurementProgress, Window
from reheatd.jobs.contracts import Job, TrainingSpec
from reheatd.jobs.curves import CurvePoint
from reheatd.jobs.dead_letters import DeadLetter
from reheatd.jobs.report import JobReport
from reheatd.jobs.rollouts import RolloutRow
from reheatd.measures import BaselineOf, Contract, EntropyEstimate
from reheatd.metrics.recent import RecentRequests
from reheatd.runlog.signals import SignalFigures
from reheatd.signal import Reach
from reheatd.trackers.health import TrackerHealth


class Readiness(Contract):
    """The answer of `GET /health`."""

    status: str
    """`ready`, or what the daemon waits for, e.g. `starting`."""


class PromotedVersion(Contract):
    """The version that the alias means."""

    version: int
    name: str


class VersionView(VersionInfo):
    """The answer of `GET /reheatd/v1/adapters/VERSION`."""

    report: JobReport | None
    """The report of the job that made the version; None for the base, for versions that no job made, and for reports of
    an earlier reheatd, of which there are only the files in `report_dir`."""
    report_dir: Path | None
    """Folder of the report and its plots, on the daemon's machine."""


class LearningView(Contract):
    """What the rollouts of RL taught in the present run. Numbers of groups are means per step."""

    steps: int
    """Steps of RL of the run so far, over all its jobs."""
    groups: float
    """Groups of rollouts that were sampled, over the newest `entropy.stall_steps` steps, as the next three."""
    varied: float
    """Groups whose rewards differ."""
    all_fail: float
    """Groups in which no rollout is rewarded."""
    all_pass: float
    """Groups in which every rollout is rewarded fully."""
    trends: dict[str, SignalFigures]
    """How `reward` and `grad_norm` began and ended."""
    notes: list[str]
    """What is worth knowing: a reward that has fallen, spikes of the gradient norm, problems that are too easy."""


class ThresholdsView(Contract):
    """Entropies between the verdicts on the promoted version, in nats per token."""

    collapsed: float
    """Below this a policy has collapsed."""
    warning: float
    """Below this a policy gets a warning."""
    too_hot: float | None
    """Above this entropy has run away; None where nothing is known of the run."""
    target: float
    """To this a reheat leads back."""
    because: str
    """The rule that `collapsed` comes from."""


class Intention(Contract):
    """Something that the daemon will do by itself."""

    what: str
    """What it will do, e.g. `start rl-4f2a1c3d`."""
    at: float | None = None
    """When, in seconds since the epoch; None if that depends on what happens before."""


class PartHealth(Contract):
    """Whether a part of the daemon works."""

    ok: bool
    detail: str
    """One line of explanation; empty if there is nothing to say."""


class EngineHealth(PartHealth):
    """Whether an engine works, and how busy it is."""

    name: str
    url: str
    in_flight: int


class WorkersHealth(PartHealth):
    """Whether there are workers."""

    configured: int
    """Number of workers that the daemon starts itself."""
    connected: int | None
    """Number of workers that answer over the broker, local or not; None if the broker cannot be asked."""


class RequestTotals(Contract):
    total: int
    failed: int


class StatusView(Contract):
    """The answer of `GET /reheatd/v1/status`. Entropies are in nats per token."""

    readiness: str
    """`ready`, or what the daemon waits for."""
    state: State
    mode: Literal["observe", "approve", "auto"]
    policy: str
    """The base model, as it is configured."""
    promoted: PromotedVersion
    verdict: Verdict | None
    """Verdict on the promoted version; None until a window of it was measured."""
    entropy: EntropyEstimate | None
    """Entropy of the promoted version in its newest window."""
    baseline: EntropyEstimate | None
    baseline_of: BaselineOf
    """Whose entropy the baseline is: the policy's own, that of its reference, or one that was given."""
    reference: str | None
    """The base that the policy was trained from, as it is configured."""
    ratio: float | None
    """The entropy as a share of the baseline."""
    thresholds: ThresholdsView | None = None
    """None until the baseline is known."""
    reason: str = ""
    """One sentence that says why the verdict is what it is."""
    next: list[Intention] = Field(default_factory=list)
    """What the daemon will do next by itself, and what waits for a person."""
    measuring: MeasurementProgress | None
    """The measurement of entropy that is under way: of the promoted version, the baseline or a job's candidate."""
    problem: str | None
    """Why entropy could not be measured when it was last due; None if it could. Meanwhile no collapse is noticed, and
    jobs that need the baseline wait."""
    job: Job | None
    """The job that is being run; None if there is none."""
    queued: int
    """Number of jobs that wait for their turn or for approval."""
    waiting: list[Job]
    """The jobs that wait, the next one first."""
    cooldown_remaining_s: float
    paused: list[Pause]
    """What the daemon does not start by itself until `POST /reheatd/v1/control/resume`."""
    learning: LearningView | None
    """What the rollouts of RL teach the promoted version; None if no RL job has reported it in its run."""
    reach: Reach | None
    """What the base solves of the held-out problems and the promoted version does not; None for the base itself, and if
    the job that made the version did not measure it."""
    uptime_s: float
    engines: list[EngineHealth]
    broker: PartHealth
    workers: WorkersHealth
    trackers: list[TrackerHealth] = Field(default_factory=list)
    """The trackers that get jobs as runs."""
    tap_rejected: int = 0
    """Datagrams that the entropy tap's socket dropped: forged, repeated or too old."""
    adapters_loaded: list[str]
    """Names of the adapters that the engines have loaded, the least recently used first."""
    in_flight: int
    requests: RequestTotals
    recent: RecentRequests | None = None
    """Clients' requests of the last minute; None from an earlier reheatd."""


class EntropyView(Contract):
    """The answer of `GET /reheatd/v1/entropy`, in nats per token."""

    baseline: EntropyEstimate | None
    threshold: float | None
    """A window is low if its upper confidence limit is below this."""
    max_tokens: int | None
    """Longest answer to a probe, in tokens; None until it has been found."""
    windows: list[Window]
    """The windows of the probes, oldest first."""
    sources: list[LiveWindow]
    """The newest window of every other source, oldest first: clients, rollouts of jobs, and the tap's view of all."""
    learning: LearningView | None
    """What the rollouts of RL teach the promoted version, as in the status."""


class ResumedView(Contract):
    """The answer of `POST /reheatd/v1/control/resume`."""

    resumed: list[Pause]
    """What was paused."""


class LiveView(Contract):
    """The answer of `GET /reheatd/v1/entropy/live`: the entropy of tokens as they were decoded, in nats per token."""

    windows: list[LiveWindow]
    """The windows, oldest first."""


class AdapterList(Contract):
    """The answer of `GET /reheatd/v1/adapters`."""

    promoted: int
    adapters: list[VersionInfo]
    """All versions, without their proof items, which are in the answer for a single version."""


class PruneRequest(Contract):
    """The body of `POST /reheatd/v1/adapters/prune`."""

    keep: int = Field(ge=0)
    """Number of the newest versions that stay."""


class DeletedView(Contract):
    """The versions that a request deleted."""

    deleted: list[int]


class PromotionView(Contract):
    """The answer to a promotion or rollback."""

    version: int
    name: str
    from_version: int
    seconds: float
    """Time from the start of staging to the flip."""
    proof: dict[str, float] | None
    """Figures of the proof of delivery; None for the base model."""


class JobList(Contract):
    jobs: list[Job]
    """The jobs, oldest first."""
    dead_letters: list[DeadLetter] | None = None
    """Messages to workers that no worker could handle, oldest first; None if the broker cannot be reached."""


class JobPlan(Contract):
    """What a job needs of the daemon's machine, by the arithmetic of `reheatd plan`. Sizes are in bytes."""

    device: Literal["cpu", "cuda"]
    device_bytes: int
    """Memory of each GPU, or of the machine if it has none."""
    engine_bytes: int
    """Memory of an engine on each of its devices, with its KV cache."""
    worker_bytes: int
    kv_tokens: int
    """Tokens that the KV cache of an engine holds."""
    tokens_at_once: int
    """Tokens that go through the policy together in training."""
    checkpointed: bool
    """Whether training keeps only the borders of layers, and computes what is between them again."""
    prompt_tokens: int
    """Tokens of the longest prompts, as they are assumed."""
    answer_tokens: int
    """Tokens of the longest answers."""
    answer_tokens_assumed: bool
    """Whether the length of answers is still to be found."""
    step_s: float | None
    """Seconds of a step of RL; None where the machine's speed is not known, and for a reheat."""


class JobPreview(Contract):
    """The answer of `POST /reheatd/v1/jobs/preview`: the job that the same request would start now."""

    spec: TrainingSpec = Field(discriminator="kind")
    """Everything that the worker would be told, with all options."""
    steps: int
    """Largest number of steps."""
    jobs_before: int
    """Jobs that run or wait before it."""
    plan: JobPlan | None
    """What it needs; None if that cannot be computed."""
    plan_problem: str | None
    """Why there is no plan, or why the job does not fit."""


class CurvesView(Contract):
    """The answer of `GET /reheatd/v1/jobs/JOB/curves`."""

    job_id: str
    points: list[CurvePoint]
    """The metrics of every step so far, by step."""


class RolloutsView(Contract):
    """The answer of `GET /reheatd/v1/jobs/JOB/rollouts`."""

    job_id: str
    total: int
    """Number of rollouts that are kept of the job, or of the step that was asked for."""
    rollouts: list[RolloutRow]
    """The last of them, oldest first."""


class JournalView(Contract):
    entries: list[JournalEntry]
    """The entries, oldest first."""


class RolloutAdapterRequest(Contract):
    path: str
    """Folder of the snapshot, inside the job's own folder."""
    step: int


class RolloutAdapterView(Contract):
    model: str
    """Model name to sample from."""


class DaemonEvent(RootModel[Annotated[Event, Field(discriminator="kind")]]):
    """The data of one event of `GET /reheatd/v1/events`."""
