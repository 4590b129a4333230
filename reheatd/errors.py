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
    """A value that the user gave cannot be used.

    What to do: The message names the field, its value and what is allowed. Correct the value and try again; nothing
    was changed.
    """

    code = "invalid_value"
    type = "invalid_request_error"
    status = 400
    exit_code = 2


class ConfigError(BadInputError):
    """The configuration names an unknown key or holds an unusable value.

    What to do: Correct the key that the message names. `reheatd init` writes a file with every key, its default and
    its meaning.
    """

    code = "invalid_configuration"


class AdapterInvalidError(BadInputError):
    """An adapter's files do not fit the policy, for example by their shapes, target modules or base model.

    What to do: The message says which file, tensor or field does not fit. Export the adapter again for the policy that
    is served, or import it with --any-base if only the base's name differs.
    """

    code = "invalid_adapter"


class ArchiveInvalidError(BadInputError):
    """A tar stream is damaged, cut off or too large, or has entries that are not plain files.

    What to do: Make the archive again with `tar -c -C FOLDER adapter_config.json adapter_model.safetensors`, and
    send all of it. A larger adapter needs a larger adapters.max_import_bytes.
    """

    code = "invalid_archive"


class NotFoundError(ReheatdError, LookupError):
    """A version, job, model or file does not exist.

    What to do: List what there is: `reheatd adapters list` for versions, `reheatd jobs list` for jobs. Paths are
    relative to the folder that the command runs in.
    """

    code = "not_found"
    type = "invalid_request_error"
    status = 404
    exit_code = 2


class ModelNotFoundError(NotFoundError):
    """The gateway serves no model of this name.

    What to do: Ask for `policy`, `base` or a version such as `policy-v3`; GET /v1/models lists the names. An API
    key may be limited to some of them (`reheatd keys list`).
    """

    code = "model_not_found"


class NotSupportedError(ReheatdError):
    """The model that is served cannot do what a request asks.

    What to do: Ask on a route that the model has: a policy writes text, for example at `/v1/chat/completions`.
    Embeddings, scores and the like need an engine of another kind of model.
    """

    code = "not_supported"
    type = "invalid_request_error"
    status = 404
    exit_code = 2


class ConflictError(ReheatdError):
    """The request is valid, but the present state does not allow it.

    What to do: The message says which state is in the way. Wait until it is over (`reheatd status`), or end it
    first, for example with `reheatd jobs cancel`.
    """

    code = "conflict"
    type = "invalid_request_error"
    status = 409
    exit_code = 2


class SlotsFullError(ConflictError):
    """Every adapter slot of the engine is in use; one is free when a request or a job ends.

    What to do: Wait until a request or a job has ended, and let clients ask for `policy` instead of a version by its
    number. A larger engine.max_loras gives more slots, which take memory.
    """

    code = "no_free_slot"


class JobWaitsError(ReheatdError):
    """The job is being run, but not at this moment: the daemon goes on with it later.

    What to do: Nothing: the worker asks again by itself. If it lasts, `reheatd status` says what the daemon waits
    for.
    """

    code = "job_waits"
    status = 503


class EngineTakenError(ConflictError):
    """The engine holds adapters of another daemon.

    What to do: Give each daemon engines of its own. If the other daemon is gone, restart the engine, or start this
    daemon on the other one's data folder.
    """

    code = "engine_taken"


class FilesUnreadableError(ReheatdError, OSError):
    """Files cannot be read at the moment, for a reason that may pass.

    What to do: Look at the reason in the message: raise the limit of open files (`ulimit -n`), or bring the network
    file system back. The daemon tries again by itself.
    """

    code = "files_unreadable"
    status = 503


class AuthenticationError(ReheatdError):
    """A request carries no API key that is known.

    What to do: Send a key as `Authorization: Bearer KEY`. Commands take it from REHEATD_API_KEY. `reheatd keys
    create NAME` makes one on the daemon's machine.
    """

    code = "invalid_api_key"
    type = "invalid_request_error"
    status = 401
    exit_code = 2


class NotPermittedError(ReheatdError):
    """The sender of a request is known, but may not do this.

    What to do: Administration needs a key with --role admin, and a model outside of the key's --models needs
    another key; `reheatd keys list` shows both.
    """

    code = "permission_denied"
    type = "invalid_request_error"
    status = 403
    exit_code = 2


class QueueFullError(ReheatdError):
    """The job queue is at its limit.

    What to do: Wait until a job has ended, or cancel one that waits (`reheatd jobs list`, `reheatd jobs cancel`).
    control.max_queued is the limit.
    """

    code = "queue_full"
    type = "rate_limit_error"
    status = 429
    exit_code = 2


class RateLimitError(ReheatdError):
    """A client has too many requests in flight, or has used up its limit.

    What to do: Wait as long as the header `Retry-After` says. The limits are those of the key (`reheatd keys list`)
    and server.max_concurrent_per_key.
    """

    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    status = 429


class MissingExtraError(ReheatdError, ImportError):
    """An optional part of the distribution is not installed.

    What to do: Install what the message names, for example `pip install 'reheatd[worker]'`. `reheatd doctor` shows
    what else is missing.
    """

    code = "missing_extra"
    exit_code = 2


class PortInUseError(ReheatdError, OSError):
    """A port is taken by another process.

    What to do: Choose another port, for example with --port or server.port; 0 picks a free one. `ss -ltnp` shows
    which process has the port.
    """

    code = "port_in_use"
    exit_code = 2


class EngineError(ReheatdError, RuntimeError):
    """The engine refused a request or could not be reached.

    What to do: The message has the engine's own words. If it refused the request, change the request; otherwise
    look into the engine's log in logs/ of the data folder.
    """

    code = "engine_error"
    status = 502

    upstream_status: int | None = None
    """HTTP status of the engine's (or gateway's) answer; None when there was no answer."""

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later, because the engine gave no answer, is too busy or restarts."""
        return self.upstream_status is None or self.upstream_status == 429 or self.upstream_status >= 500


class EngineUnavailableError(EngineError):
    """The engine cannot be reached at the moment, e.g. while it restarts.

    What to do: Wait: the daemon restarts an engine that it started, and the answer's `Retry-After` says when to ask
    again. If it lasts, `reheatd status` shows every engine and why it is not let in.
    """

    code = "engine_unavailable"
    status = 503


class EngineTimeoutError(EngineError):
    """The engine was silent for too long.

    What to do: Ask for fewer tokens or stream the answer. If long prompts are normal, raise
    server.silence_timeout_s. If the engine hangs, the engine's log in logs/ of the data folder says more.
    """

    code = "engine_timeout"
    status = 504


class DeliveryError(EngineError):
    """The proof of delivery failed: the adapter that answers is not the one that was trained.

    What to do: The old version keeps serving. The message has the figures: nearly no change means that the weights
    did not load, a wrong slope another adapter. Import or train it again for this base; gate.proof_tolerance is for
    rounding only.
    """

    code = "delivery_failed"


class WorkerLostError(ReheatdError, RuntimeError):
    """A worker died or stopped reporting while it held a job.

    What to do: Nothing at first: another attempt resumes the job from its checkpoint. After control.max_attempts
    losses the job fails; the worker's log in logs/ of the data folder says why the worker ended, which is often memory.
    """

    code = "worker_lost"


class WorkerIncompatibleError(ReheatdError, RuntimeError):
    """The job was taken by a worker that runs another version of reheatd.

    What to do: Install the same version of reheatd for daemon and workers, and restart the workers.
    """

    code = "worker_incompatible"


class TrainingDivergedError(ReheatdError, ArithmeticError):
    """A loss, a gradient or a distribution is not finite in training.

    What to do: Lower learning_rate or max_grad_norm of the job, or start from an earlier version
    (`reheatd adapters promote`). The version that serves is not touched.
    """

    code = "training_diverged"


class OutOfMemoryError(ReheatdError, MemoryError):
    """A single sequence does not fit into the memory of a worker that trains.

    What to do: Lower max_tokens of the job, or set workers.gradient_checkpointing = true. `reheatd plan` says what fits
    on this machine.
    """

    code = "out_of_memory"


class CheckpointError(ReheatdError, ValueError):
    """A job's checkpoint is damaged or belongs to a job with other options.

    What to do: Ask for the job again; it starts from the version that serves. Do not edit files in the data folder's
    jobs/.
    """

    code = "checkpoint_unusable"


class DaemonUnreachableError(ReheatdError, ConnectionError):
    """No daemon answers at the address the command line uses.

    What to do: Start a daemon with `reheatd serve`, or name its address with --url or REHEATD_URL. With TLS, name
    the authority's certificate in REHEATD_CA_FILE.
    """

    code = "daemon_unreachable"
    exit_code = 2
