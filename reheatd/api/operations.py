"""What each route of the admin API takes and answers: a table that the published OpenAPI document is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    PruneRequest,
    Readiness,
    ResumedView,
    RolloutAdapterRequest,
    RolloutAdapterView,
    RolloutsView,
    StatusView,
    VersionView,
)
from reheatd.control.retention import DiskLimitError
from reheatd.entropy.windows import Window
from reheatd.errors import (
    AdapterInvalidError,
    ArchiveInvalidError,
    AuthenticationError,
    BadInputError,
    ConflictError,
    DeliveryError,
    EngineError,
    EngineUnavailableError,
    JobWaitsError,
    NotFoundError,
    NotPermittedError,
    QueueFullError,
    RateLimitError,
    ReheatdError,
    SlotsFullError,
)
from reheatd.jobs.contracts import Job, ReheatRequest, RLRequest

PREFIX = "/reheatd/v1"
VERSION_PATTERN = "^(v?(0|[1-9][0-9]{0,8})|policy-v(0|[1-9][0-9]{0,8})|base)$"

Schema = dict[str, Any]
Errors = tuple[type[ReheatdError], ...]

JSON = "application/json"
EVENTS = "text/event-stream"
TAR = "application/x-tar"
PROMETHEUS = ("text/plain", "application/openmetrics-text")
TEXT: Schema = {"type": "string"}
BYTES: Schema = {"type": "string", "format": "binary"}

EVERYWHERE: Errors = (ReheatdError,)
"""What every route may answer with: a bug of reheatd, or a file of its own that is damaged."""
BEHIND_KEYS: Errors = (AuthenticationError, NotPermittedError)
"""What every route but the open ones answers with, where API keys are needed."""
ENGINE: Errors = (EngineError, EngineUnavailableError)
SWAP: Errors = (NotFoundError, ConflictError, SlotsFullError, AdapterInvalidError, DeliveryError, *ENGINE)


@dataclass(frozen=True)
class Operation:
    """A method on a path."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    name: str
    """Name of the endpoint, which identifies the operation."""
    summary: str
    answer: type[BaseModel] | Schema | None = None
    """What it answers with if all goes well; None if the answer is empty."""
    status: int = 200
    errors: Errors = ()
    body: tuple[type[BaseModel], ...] | Schema = ()
    """What it takes: one of these models, or what a schema describes; nothing if it is empty."""
    parameters: tuple[Schema, ...] = ()
    links: Mapping[str, Schema] = field(default_factory=dict)
    """Parameters for what may be asked next about the answer, by the name of the operation, as expressions of
    OpenAPI's links."""
    also: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    """Further answers that are no errors, by status."""
    media: tuple[str, ...] = (JSON,)
    """Types of the answer."""
    takes: str = JSON
    """Type of the body."""


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def in_path(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


LAST = _query(
    "last", {"type": "integer", "minimum": 1, "maximum": 100_000, "default": 100}, "Number of newest entries."
)
VERSION = in_path("version", {"type": "string", "pattern": VERSION_PATTERN}, "E.g. 3, v3, policy-v3 or base.")
JOB = in_path("job_id", {"type": "string", "minLength": 1}, "Id of a job.")
STEP = _query("step", {"type": "integer", "minimum": 0, "maximum": 999_999_999}, "Only rollouts after this many steps.")
SOURCE = _query("source", {"type": "string", "maxLength": 200}, "What the user calls the adapter: one printable line.")
AFTER = _query(
    "after",
    {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
    "Number of an entry of the journal, whose later entries come first; the header `Last-Event-ID` means the same.",
)
ANY_BASE = _query("any_base", {"type": "boolean", "default": False}, "Accept an adapter that names another base.")
JOB_LINKS = {
    name: {"job_id": "$response.body#/job_id"} for name in ("job", "curves", "rollouts", "approve_job", "cancel_job")
}
VERSION_LINKS = {
    name: {"version": "$response.body#/name"} for name in ("adapter", "export_adapter", "promote", "delete_adapter")
}

ADMIN: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/health",
        "health",
        "Whether a token can be generated; 503 says what the daemon waits for.",
        Readiness,
        also={503: Readiness},
    ),
    Operation("GET", "/openapi.json", "openapi", "This document.", {"type": "object"}),
    Operation("GET", "/metrics", "metrics", "Everything measured, for Prometheus.", TEXT, media=PROMETHEUS),
    Operation("GET", f"{PREFIX}/status", "status", "The state of every part.", StatusView),
    Operation(
        "GET",
        f"{PREFIX}/entropy",
        "entropy",
        "The windows of the probes.",
        EntropyView,
        errors=(BadInputError,),
        parameters=(LAST,),
    ),
    Operation(
        "POST",
        f"{PREFIX}/entropy/measure",
        "measure",
        "Measure a window now.",
        Window,
        errors=(BadInputError, NotFoundError, ConflictError, *ENGINE),
    ),
    Operation(
        "GET",
        f"{PREFIX}/entropy/live",
        "live",
        "The windows of live traffic.",
        LiveView,
        errors=(BadInputError,),
        parameters=(LAST, _query("source", {"type": "string"}, "Only windows of this source.")),
    ),
    Operation(
        "GET",
        f"{PREFIX}/adapters",
        "adapters",
        "All versions.",
        AdapterList,
        links={"adapter": {"version": "$response.body#/adapters/0/name"}},
    ),
    Operation(
        "PUT",
        f"{PREFIX}/adapters",
        "import_adapter",
        "Import an adapter from a tar stream, plain or gzip; the answer is the job that measures it.",
        Job,
        202,
        (BadInputError, ArchiveInvalidError, AdapterInvalidError, QueueFullError, DiskLimitError, *ENGINE),
        body=BYTES,
        takes=TAR,
        parameters=(SOURCE, ANY_BASE),
        links=JOB_LINKS,
    ),
    Operation(
        "POST",
        f"{PREFIX}/adapters/rollback",
        "rollback",
        "Promote the version that was promoted before.",
        PromotionView,
        errors=SWAP,
        links=VERSION_LINKS,
    ),
    Operation(
        "POST",
        f"{PREFIX}/adapters/prune",
        "prune",
        "Delete old versions.",
        DeletedView,
        errors=(BadInputError, *ENGINE),
        body=(PruneRequest,),
    ),
    Operation(
        "GET",
        f"{PREFIX}/adapters/{{version}}",
        "adapter",
        "One version with its lineage and its job's report.",
        VersionView,
        errors=(BadInputError, NotFoundError),
        parameters=(VERSION,),
        links=VERSION_LINKS,
    ),
    Operation(
        "DELETE",
        f"{PREFIX}/adapters/{{version}}",
        "delete_adapter",
        "Delete a version that is not served.",
        DeletedView,
        errors=(BadInputError, NotFoundError, ConflictError, *ENGINE),
        parameters=(VERSION,),
    ),
    Operation(
        "GET",
        f"{PREFIX}/adapters/{{version}}/files",
        "export_adapter",
        "A version's files as a tar stream.",
        BYTES,
        errors=(BadInputError, NotFoundError, ConflictError, AdapterInvalidError),
        parameters=(VERSION,),
        media=(TAR,),
    ),
    Operation(
        "POST",
        f"{PREFIX}/adapters/{{version}}/promote",
        "promote",
        "Serve a version as `policy`: load it, prove its delivery, flip, drain the old version.",
        PromotionView,
        errors=(BadInputError, *SWAP),
        parameters=(VERSION,),
    ),
    Operation(
        "POST",
        f"{PREFIX}/jobs",
        "submit_job",
        "Ask for a job.",
        Job,
        202,
        (BadInputError, NotFoundError, QueueFullError),
        body=(ReheatRequest, RLRequest),
        links=JOB_LINKS,
    ),
    Operation(
        "POST",
        f"{PREFIX}/jobs/preview",
        "preview_job",
        "What a job would do and need that is asked for now; nothing is started.",
        JobPreview,
        errors=(BadInputError, NotFoundError, ConflictError),
        body=(ReheatRequest, RLRequest),
    ),
    Operation("GET", f"{PREFIX}/jobs", "jobs", "All jobs.", JobList),
    Operation("GET", f"{PREFIX}/jobs/{{job_id}}", "job", "One job.", Job, errors=(NotFoundError,), parameters=(JOB,)),
    Operation(
        "GET",
        f"{PREFIX}/jobs/{{job_id}}/curves",
        "curves",
        "The metrics of every step so far.",
        CurvesView,
        errors=(NotFoundError,),
        parameters=(JOB,),
    ),
    Operation(
        "GET",
        f"{PREFIX}/jobs/{{job_id}}/rollouts",
        "rollouts",
        "Rollouts that are kept of the job.",
        RolloutsView,
        errors=(BadInputError, NotFoundError),
        parameters=(JOB, LAST, STEP),
    ),
    Operation(
        "POST",
        f"{PREFIX}/jobs/{{job_id}}/cancel",
        "cancel_job",
        "Cancel a job that is not over.",
        Job,
        errors=(NotFoundError, ConflictError),
        parameters=(JOB,),
    ),
    Operation(
        "POST",
        f"{PREFIX}/jobs/{{job_id}}/approve",
        "approve_job",
        "Approve a job that waits for it.",
        Job,
        errors=(NotFoundError, ConflictError),
        parameters=(JOB,),
    ),
    Operation(
        "POST",
        f"{PREFIX}/jobs/{{job_id}}/rollout-adapter",
        "load_rollout_adapter",
        "Load a snapshot of a running job; only the job's worker asks for that.",
        RolloutAdapterView,
        errors=(
            BadInputError,
            AdapterInvalidError,
            NotFoundError,
            ConflictError,
            JobWaitsError,
            SlotsFullError,
            *ENGINE,
        ),
        body=(RolloutAdapterRequest,),
        parameters=(JOB,),
    ),
    Operation(
        "DELETE",
        f"{PREFIX}/jobs/{{job_id}}/rollout-adapter",
        "drop_rollout_adapters",
        "Unload the snapshots of a running job.",
        status=204,
        errors=(NotFoundError, ConflictError, JobWaitsError),
        parameters=(JOB,),
    ),
    Operation(
        "POST",
        f"{PREFIX}/control/resume",
        "resume",
        "Let the daemon start by itself again what it had paused.",
        ResumedView,
    ),
    Operation(
        "GET",
        f"{PREFIX}/journal",
        "journal",
        "What the daemon did, and why.",
        JournalView,
        errors=(BadInputError,),
        parameters=(LAST,),
    ),
    Operation(
        "GET",
        f"{PREFIX}/events",
        "events",
        "What happens, as it happens: entries of the journal, changes of jobs, windows and verdicts.",
        DaemonEvent,
        errors=(BadInputError, RateLimitError),
        parameters=(AFTER,),
        media=(EVENTS,),
    ),
)
