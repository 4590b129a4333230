"""Errors that a user can meet: each names the thing at fault, its value and the way out.

Every error knows how it is presented on the command line (one line and an exit code) and over HTTP (an OpenAI-style
error object), so that no caller has to translate it.
"""

from typing import Any, ClassVar


class ReheatdError(Exception):
    """Base of every error that reheatd raises on purpose.

    Args:
        message: One line that names what is wrong and what to do about it.
        param: The field, argument or route parameter at fault; None if there is none.
    """

    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s: int | None = None
        """When it is worth to try again, in seconds, where that is known."""

    def openai_object(self) -> dict[str, Any]:
        """The body of an OpenAI-style error response."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class BadInputError(ReheatdError, ValueError):
    """A value that the user gave cannot be used."""

    code = "invalid_value"
    type = "invalid_request_error"
    status = 400
    exit_code = 2


class ConfigError(BadInputError):
    """The configuration names an unknown key or holds an unusable value."""

    code = "invalid_configuration"


class AdapterInvalidError(BadInputError):
    """An adapter's files do not fit the policy, for example by their shapes, target modules or base model."""

    code = "invalid_adapter"


class ArchiveInvalidError(BadInputError):
    """A tar stream is damaged, cut off or too large, or has entries that are not plain files."""

    code = "invalid_archive"


class NotFoundError(ReheatdError, LookupError):
    """A version, job, model or file does not exist."""

    code = "not_found"
    type = "invalid_request_error"
    status = 404
    exit_code = 2


class ModelNotFoundError(NotFoundError):
    """The gateway serves no model of this name."""

    code = "model_not_found"


class NotSupportedError(ReheatdError):
    """The model that is served cannot do what a request asks."""

    code = "not_supported"
    type = "invalid_request_error"
    status = 404
    exit_code = 2


class ConflictError(ReheatdError):
    """The request is valid, but the present state does not allow it."""

    code = "conflict"
    type = "invalid_request_error"
    status = 409
    exit_code = 2


class SlotsFullError(ConflictError):
    """Every adapter slot of the engine is in use; one is free when a request or a job ends."""

    code = "no_free_slot"


class JobWaitsError(ReheatdError):
    """The job is being run, but not at this moment: the daemon goes on with it later."""

    code = "job_waits"
    status = 503


class EngineTakenError(ConflictError):
    """The engine holds adapters of another daemon."""

    code = "engine_taken"


class FilesUnreadableError(ReheatdError, OSError):
    """Files cannot be read at the moment, for a reason that may pass."""

    code = "files_unreadable"
    status = 503


class AuthenticationError(ReheatdError):
    """A request carries no API key that is known."""

    code = "invalid_api_key"
    type = "invalid_request_error"
    status = 401
    exit_code = 2


class NotPermittedError(ReheatdError):
    """The sender of a request is known, but may not do this."""

    code = "permission_denied"
    type = "invalid_request_error"
    status = 403
    exit_code = 2


class QueueFullError(ReheatdError):
    """The job queue is at its limit."""

    code = "queue_full"
    type = "rate_limit_error"
    status = 429
    exit_code = 2


class RateLimitError(ReheatdError):
    """A client has too many requests in flight, or has used up its limit."""

    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    status = 429


class MissingExtraError(ReheatdError, ImportError):
    """An optional part of the distribution is not installed."""

    code = "missing_extra"
    exit_code = 2


class PortInUseError(ReheatdError, OSError):
    """A port is taken by another process."""

    code = "port_in_use"
    exit_code = 2


class EngineError(ReheatdError, RuntimeError):
    """The engine refused a request or could not be reached."""

    code = "engine_error"
    status = 502

    upstream_status: int | None = None
    """HTTP status of the engine's (or gateway's) answer; None when there was no answer."""

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later, because the engine gave no answer, is too busy or restarts."""
        return self.upstream_status is None or self.upstream_status == 429 or self.upstream_status >= 500


class EngineUnavailableError(EngineError):
    """The engine cannot be reached at the moment, e.g. while it restarts."""

    code = "engine_unavailable"
    status = 503


class EngineTimeoutError(EngineError):
    """The engine was silent for too long."""

    code = "engine_timeout"
    status = 504


class DeliveryError(EngineError):
    """The proof of delivery failed: the adapter that answers is not the one that was trained."""

    code = "delivery_failed"


class WorkerLostError(ReheatdError, RuntimeError):
    """A worker died or stopped reporting while it held a job."""

    code = "worker_lost"


class WorkerIncompatibleError(ReheatdError, RuntimeError):
    """The job was taken by a worker that runs another version of reheatd."""

    code = "worker_incompatible"


class DaemonUnreachableError(ReheatdError, ConnectionError):
    """No daemon answers at the address the command line uses."""

    code = "daemon_unreachable"
    exit_code = 2
