"""What every operation of the admin API sends, and how its answer is read.

There is a function for each operation in the table of `reheatd.api.operations`, with its name. Both clients make a
method of each, so arguments and docstrings here are those of the methods. Every method raises what the daemon answers,
as the errors of `reheatd.errors`, and `DaemonUnreachableError` if there is no answer.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from reheatd.api.schemas import (
    AdapterList,
    CurvesView,
    DaemonEvent,
    DeletedView,
    EntropyView,
    JobList,
    JobPreview,
    JournalView,
    LiveView,
    PromotionView,
    Readiness,
    ResumedView,
    RolloutAdapterView,
    RolloutsView,
    StatusView,
    VersionView,
)
from reheatd.client.adapter_files import adapter_stream, printable_name
from reheatd.entropy.windows import Window
from reheatd.jobs.contracts import Job, TrainingRequest
from reheatd.names import parse_version

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)

API = "/reheatd/v1"
NEWEST = 100
"""Number of newest entries of a list that are asked for unless the caller says another."""


@dataclass(frozen=True)
class Request(Generic[Answer]):
    """A request of the admin API."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    read: Callable[[bytes], Answer]
    """Makes the answer from the body of a response."""
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Any = None
    """A JSON value; None sends no body."""
    content: Iterator[bytes] | None = None
    """A body that is no JSON, sent as it is made. An error that making it raises goes through to the caller."""
    also: frozenset[int] = frozenset()
    """Statuses of answers that are no errors, beside 200 to 299."""


def health() -> Request[Readiness]:
    """Whether a token can be generated; while it cannot, `status` says what the daemon waits for."""
    return Request("GET", "/health", _model(Readiness), also=frozenset({503}))


def openapi() -> Request[dict[str, Any]]:
    """The OpenAPI document of the daemon."""
    return Request("GET", "/openapi.json", json.loads)


def metrics() -> Request[str]:
    """Everything measured, in the text format of Prometheus."""
    return Request("GET", "/metrics", bytes.decode)


def status() -> Request[StatusView]:
    """The state of every part."""
    return Request("GET", f"{API}/status", _model(StatusView))


def entropy(*, last: int = NEWEST) -> Request[EntropyView]:
    """The newest `last` windows of the probes, with baseline and threshold, in nats per token."""
    return Request("GET", f"{API}/entropy", _model(EntropyView), {"last": last})


def measure() -> Request[Window]:
    """Measures a window now, which takes as long as the probes are sampled."""
    return Request("POST", f"{API}/entropy/measure", _model(Window))


def live(*, last: int = NEWEST, source: str | None = None) -> Request[LiveView]:
    """The newest `last` windows of live traffic, in nats per token; only those of `source` if it is given."""
    asked: dict[str, str | int] = {"last": last} | ({} if source is None else {"source": source})
    return Request("GET", f"{API}/entropy/live", _model(LiveView), asked)


def adapters() -> Request[AdapterList]:
    """All versions."""
    return Request("GET", f"{API}/adapters", _model(AdapterList))


def import_adapter(path: Path | str, *, source: str | None = None, any_base: bool = False) -> Request[Job]:
    """Sends an adapter of another trainer, and returns the job that measures it.

    Args:
        path: Folder of a PEFT adapter, or its .tar or .tar.gz. It is read while it is sent.
        source: What to call the adapter; default: the name of `path`.
        any_base: Accept an adapter that names another base model; its shapes must fit.

    Raises:
        NotFoundError: There is no such file or folder.
        AdapterInvalidError: The folder has no adapter, or several; or the daemon refuses it.
        ArchiveInvalidError: A file cannot be read, or the archive is damaged.
    """
    named = printable_name(Path(path)) if source is None else source
    asked = {"source": named, "any_base": "true" if any_base else "false"}
    return Request("PUT", f"{API}/adapters", _model(Job), asked, content=adapter_stream(Path(path)))


def rollback() -> Request[PromotionView]:
    """Serves the version that was promoted before the present one."""
    return Request("POST", f"{API}/adapters/rollback", _model(PromotionView))


def prune(keep: int) -> Request[DeletedView]:
    """Deletes old versions; the newest `keep` stay, and so do all that are promoted, loaded or in use."""
    return Request("POST", f"{API}/adapters/prune", _model(DeletedView), body={"keep": keep})


def adapter(version: int | str) -> Request[VersionView]:
    """One version with its lineage and its job's report.

    Args:
        version: E.g. 3, "v3", "policy-v3" or "base".
    """
    return Request("GET", _of_version(version), _model(VersionView))


def delete_adapter(version: int | str) -> Request[DeletedView]:
    """Deletes a version that is not served; `version` is as for `adapter`."""
    return Request("DELETE", _of_version(version), _model(DeletedView))


def export_adapter(version: int | str) -> Request[None]:
    """A version's files as a tar stream; `version` is as for `adapter`."""
    return Request("GET", f"{_of_version(version)}/files", _nothing)


def promote(version: int | str) -> Request[PromotionView]:
    """Serves a version as `policy`: loads it, proves its delivery, flips, drains the old version, and returns then.

    Args:
        version: As for `adapter`.
    """
    return Request("POST", f"{_of_version(version)}/promote", _model(PromotionView))


def submit_job(request: TrainingRequest) -> Request[Job]:
    """Asks for a job, and returns it as it is queued; `wait` follows it. Options that are not given are configured."""
    return Request("POST", f"{API}/jobs", _model(Job), body=request.model_dump(mode="json"))


def preview_job(request: TrainingRequest) -> Request[JobPreview]:
    """What a job would do that is asked for now, with all its options and what it needs. Nothing is started."""
    return Request("POST", f"{API}/jobs/preview", _model(JobPreview), body=request.model_dump(mode="json"))


def jobs() -> Request[JobList]:
    """All jobs, the newest last."""
    return Request("GET", f"{API}/jobs", _model(JobList))


def job(job_id: str) -> Request[Job]:
    """One job as it is now."""
    return Request("GET", _of_job(job_id), _model(Job))


def curves(job_id: str) -> Request[CurvesView]:
    """The metrics of every step of a job so far."""
    return Request("GET", f"{_of_job(job_id)}/curves", _model(CurvesView))


def rollouts(job_id: str, *, last: int = NEWEST, step: int | None = None) -> Request[RolloutsView]:
    """The newest `last` rollouts that are kept of a job.

    Args:
        step: Only those that were sampled after so many steps.
    """
    asked = {"last": last} | ({} if step is None else {"step": step})
    return Request("GET", f"{_of_job(job_id)}/rollouts", _model(RolloutsView), asked)


def cancel_job(job_id: str) -> Request[Job]:
    """Cancels a job that is not over; the served version does not change, and a version that waits is rejected."""
    return Request("POST", f"{_of_job(job_id)}/cancel", _model(Job))


def approve_job(job_id: str) -> Request[Job]:
    """Approves a job that waits for it: it starts or, if a gate had no evidence, its version is promoted."""
    return Request("POST", f"{_of_job(job_id)}/approve", _model(Job))


def load_rollout_adapter(job_id: str, path: Path | str, step: int) -> Request[RolloutAdapterView]:
    """Loads a snapshot of a running job, as the job's worker does; returns the model to sample from.

    Args:
        path: Folder of the snapshot, inside the job's own folder on the daemon's machine.
        step: Steps that the job has taken.
    """
    body = {"path": str(path), "step": step}
    return Request("POST", f"{_of_job(job_id)}/rollout-adapter", _model(RolloutAdapterView), body=body)


def drop_rollout_adapters(job_id: str) -> Request[None]:
    """Unloads the snapshots of a running job."""
    return Request("DELETE", f"{_of_job(job_id)}/rollout-adapter", _nothing)


def resume() -> Request[ResumedView]:
    """Lets the daemon start by itself again what it had paused, and returns what that was."""
    return Request("POST", f"{API}/control/resume", _model(ResumedView))


def journal(*, last: int = NEWEST) -> Request[JournalView]:
    """The newest `last` entries of the journal: what the daemon did, and why."""
    return Request("GET", f"{API}/journal", _model(JournalView), {"last": last})


def events(*, after: int | None = None) -> Request[DaemonEvent]:
    """Yields what happens, as it happens, until the daemon stops or the connection ends; each has a `kind`.

    Args:
        after: Number of an entry of the journal, whose later entries come first; default: only what happens from now
            on. Whoever comes back with the number of the last entry misses none.

    Raises:
        BadInputError: The journal has no such entry.
        RateLimitError: As many follow the events as may.
    """
    return Request("GET", f"{API}/events", _model(DaemonEvent), {} if after is None else {"after": after})


def _model(model: type[Model]) -> Callable[[bytes], Model]:
    return model.model_validate_json


def _nothing(content: bytes) -> None:
    """For answers that are empty, or that are written to a file."""


def _of_version(version: int | str) -> str:
    number = version if isinstance(version, int) else parse_version(version)
    return f"{API}/adapters/{number}"


def _of_job(job_id: str) -> str:
    """The path of a job, whatever its id holds."""
    return f"{API}/jobs/{quote(job_id.encode('utf-8', 'surrogateescape'), safe='')}"
