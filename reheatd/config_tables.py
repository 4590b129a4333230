"""The tables of the configuration that belong to the daemon; those of its jobs are in `reheatd.options`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from reheatd.broker_url import parse_broker_url
from reheatd.options import Checkpointing, NumberFormat, Options, WindowOptions
from reheatd.secret_files import read_secret
from reheatd.validation import or_auto

BUILTIN_POLICY = "smollm2-135m-instruct"


class PolicySection(Options):
    model: str = BUILTIN_POLICY
    """Hugging Face model id, local folder, or the built-in `smollm2-135m-instruct`."""
    reference: str | None = None
    """The base that `model` was trained from with RL, named in the same way. Its entropy, measured once on an engine of
    its own, is then the baseline, so that `model` itself can be found collapsed. Default: `model` is its own
    baseline."""
    max_model_len: Annotated[int, Field(ge=64)] | Literal["auto"] = "auto"
    """Largest number of tokens that the engine accepts for prompt and completion together. `auto` is what the policy
    was made for, or what the engine's KV cache holds if that is less. Of an engine that runs elsewhere the cache is not
    known."""
    chat_template: str | None = None
    """Jinja file that turns chats into prompts, or `raw` for prompts that are the contents of the messages and nothing
    else, for a base model that was trained on such prompts. Default: the policy's own."""
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """Arguments of the chat template in every request, for example `{ enable_thinking = false }`. A client may give
    others."""

    @property
    def length(self) -> int:
        """`max_model_len` as the number that it is once the policy is known; see `reheatd.engine.sequence_length`."""
        if self.max_model_len == "auto":
            raise RuntimeError("policy.max_model_len is not known before the policy's files are read")
        return self.max_model_len


def own_share(max_num_seqs: int) -> int:
    """Sequences of an engine that jobs and probes may have in it at once, of those that it decodes at once."""
    return max(1, 3 * max_num_seqs // 4)


class EngineSection(Options):
    url: str | None = None
    """URL of a vLLM server that is already running, or several URLs separated by commas. Default: the daemon starts
    `replicas` of them as its own child processes, on loopback."""
    replicas: int = Field(default=1, ge=1)
    """Number of engines that the daemon starts. All serve the same version; each gets its share of the cores or
    GPUs."""
    api_key_file: Path | None = None
    """File with the secret that daemon and engines share if the engines run elsewhere: the engines' API key, from which
    the key of their entropy taps is derived. Default: the environment variable VLLM_API_KEY. Engines that the daemon
    starts get a random key each time."""
    host: str = "127.0.0.1"
    """Address that an engine started by the daemon listens on. It needs a key, but knows no TLS, so keep it off public
    networks."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port that an engine started by the daemon listens on; further engines take the ports after it. 0 picks free
    ports."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Which vLLM build to expect; `auto` expects CUDA where a driver is present."""
    dtype: NumberFormat = "auto"
    """Number format of weights and KV cache. `auto` chooses bfloat16 on a CPU that multiplies it natively, and float32
    on other CPUs, which would have to emulate bfloat16 several times slower. On a GPU, vLLM chooses. `reheatd doctor`
    names the format."""
    max_loras: int = Field(default=6, ge=4)
    """Adapter slots: one for the promoted version, one for a candidate, two for a running job and the rest for pinned
    versions."""
    max_lora_rank: int = Field(default=16, ge=1)
    """Largest LoRA rank that the engine accepts."""
    kv_cache_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Size of each CPU engine's KV cache, in bytes. A token takes twice as many bytes in float32 as in bfloat16."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of GPU memory that the engine takes. `auto` takes what the worker leaves if both share a GPU, as `reheatd
    plan` computes it, and 0.9 if the engine is alone on it."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Largest number of sequences that the engine decodes at once. Jobs and probes leave a quarter of it to clients."""
    max_logprobs: int = Field(default=64, ge=21)
    """Largest number of logprobs per token that a request may ask for; monitoring asks for 21."""
    cpu_threads_bind: str | None = None
    """`VLLM_CPU_OMP_THREADS_BIND` of every CPU engine; default: the engines share the cores that this process may
    use. If it is set, the engine's scheduler runs in a separate process, which spins."""
    startup_timeout_s: float = Field(default=300.0, gt=0)
    """Longest wait until the engine generates its first token, in seconds."""
    extra_args: list[str] = Field(default=[])
    """Further vLLM command-line arguments, which are passed on unchanged."""

    @field_validator("gpu_memory_utilization", mode="wrap")
    @classmethod
    def _share_or_auto(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        return or_auto(value, validate, "a number between 0 and 1")

    @property
    def urls(self) -> list[str]:
        """URLs of the servers that are already running; empty if the daemon starts the engines itself."""
        return [] if self.url is None else [url.strip() for url in self.url.split(",")]

    @property
    def own_sequences(self) -> int:
        """Sequences that a job or a window of probes has in all engines at once, at most.

        The engine admits sequences in the order in which they come. If rollouts filled it, a client would wait until
        one of them ends, which may take minutes.
        """
        return own_share(self.max_num_seqs) * max(self.replicas, len(self.urls))

    @model_validator(mode="after")
    def _engines(self) -> "EngineSection":
        if self.url is not None and self.replicas > 1:
            raise ValueError(
                f"replicas = {self.replicas} asks for engines started here, but url names running ones; list them all "
                "in url, separated by commas, or leave url out"
            )
        for url in self.urls:
            if "@" in url:
                raise ValueError("url holds credentials; put the engine's key into a file and name it in api_key_file")
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"url has {url!r}, which is not like http://host:8100")
        if any(argument.startswith("--api-key") for argument in self.extra_args):
            raise ValueError(
                "extra_args has --api-key, which every user of the machine could read in the process list; the daemon "
                "makes a key itself, or put it into a file and name it in api_key_file"
            )
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"url = {self.url!r} names an engine twice")
        return self


class BrokerSection(Options):
    url: str | None = Field(default=None, repr=False)
    """URL of a Redis or Valkey that is already running: redis://:password@host:6379/0, rediss:// with TLS, or
    unix:///path/to/socket. Default: the daemon starts an embedded Valkey as a child process."""
    password_file: Path | None = None
    """File that holds the broker's password, for a `url` that has none."""

    @property
    def full_url(self) -> str | None:
        """`url` with the password in `password_file`; do not log it.

        Raises:
            ConfigError: The file cannot be read.
        """
        if self.url is None or self.password_file is None:
            return self.url
        password = read_secret(self.password_file, "broker.password_file")
        return str(replace(parse_broker_url(self.url), password=password))

    @field_validator("url")
    @classmethod
    def _in_one_form(cls, value: str | None) -> str | None:
        return None if value is None else str(parse_broker_url(value))

    @model_validator(mode="after")
    def _one_password(self) -> "BrokerSection":
        if self.password_file is not None and (self.url is None or parse_broker_url(self.url).password):
            raise ValueError("password_file needs a url without a password")
        return self


class WorkersSection(Options):
    count: int = Field(default=1, ge=0)
    """Number of Celery workers that the daemon starts; 0 if workers run elsewhere."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads that each worker's torch may use; default: torch's own choice."""
    dtype: NumberFormat = "auto"
    """Number format of the frozen base model in the trainer. `auto` chooses bfloat16 on a GPU and, on a CPU, the format
    that `engine.dtype` = `auto` chooses there. LoRA weights are always float32."""
    gradient_checkpointing: Checkpointing = "auto"
    """Whether a layer computes its activations again in the backward pass instead of keeping them, which takes a third
    more time and a fraction of the memory: `auto` does so for sequences that do not fit into memory otherwise."""
    retry_s: float = Field(default=180.0, gt=0)
    """How long a job repeats its requests while the engine is away, in seconds. An engine needs half a minute or more
    to restart."""
    report_rollouts: int = Field(default=24, ge=2)
    """Number of rollouts of the parent, and of the student, on which a job's report compares the two."""
    reward_paths: list[str] = Field(default=[])
    """Files and folders that rewards may read besides their own code and the interpreter's installation, where the
    kernel has Landlock (`reheatd doctor` says so)."""
    reward_variables: list[str] = Field(default=[])
    """Names of environment variables of the worker that rewards get, besides PATH, HOME, PYTHONPATH and the like."""
    rollouts_kept: int = Field(default=2000, ge=0)
    """Number of rollouts that a job keeps for the dashboard and `reheatd jobs rollouts`, at most, spread evenly over
    its steps; 0 keeps none."""


class EntropySection(WindowOptions):
    max_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Longest answer to a probe, in tokens. `auto` is as long as the policy writes: the 90th percentile of the base
    policy's own answers, measured once, within `window_tokens`."""
    window_tokens: int = Field(default=16384, ge=256)
    """With max_tokens = "auto", the largest number of tokens that a window samples: no answer is longer than its
    probe's share. A policy that reasons at length needs more."""
    interval_s: float = Field(default=120.0, gt=0)
    """Least number of seconds between two monitoring windows."""
    max_share: float = Field(default=0.01, gt=0, le=1)
    """Largest share of the engine's time that scheduled windows may take. After a window of s seconds, the next one
    comes s / max_share seconds later if that is more than `interval_s`."""
    baseline_windows: int = Field(default=3, ge=1)
    """Number of windows of the base policy that make the baseline."""
    baseline_nats: float | None = Field(default=None, gt=0)
    """The baseline, in nats per token, if it is known already; nothing is measured for it then. Do not name a
    `policy.reference` as well."""
    collapse_ratio: float = Field(default=0.10, gt=0, lt=1)
    """A policy below this share of the baseline has collapsed."""
    collapse_nats: float = Field(default=0.08, ge=0)
    """A policy below this entropy has collapsed, in nats per token. It is not used if the baseline itself is below
    twice this value. 0 turns it off."""
    collapse_stable_share: float = Field(default=0.7, ge=0, lt=1)
    """A policy below this share of its run's stable phase has collapsed. A run of RL has a stable phase once 20
    policies in a row have about the same entropy, below half of the baseline. 0 turns it off."""
    margin: float = Field(default=0.2, ge=0)
    """The verdict is `warning` up to this share above the collapse threshold, and a collapsed policy counts as
    recovered only above that."""
    too_hot_ratio: float = Field(default=3.0, gt=1)
    """Entropy has run away above this many times the lowest entropy of the run so far, if that is more than half of
    the baseline."""
    patience: int = Field(default=2, ge=1)
    """Consecutive windows beyond a threshold before the verdict is `collapsed` or `too_hot`. A window is beyond it with
    its whole confidence interval."""
    stall_groups: float = Field(default=0.2, ge=0)
    """A run has stalled if no more groups of rollouts than this vary per step of RL, and most others fail. It stays so
    until more than this, by the share `margin`, vary."""
    stall_steps: int = Field(default=20, ge=1)
    """Steps of RL over which `stall_groups` is averaged."""
    live_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the clients' requests to which the gateway adds a request for `top_k` logprobs; it removes them from the
    answer. This gives live entropy where the engine has no tap."""
    tap: Literal["auto", "on", "off"] = "auto"
    """Whether the engine measures the exact entropy of every token it decodes. `auto` is on for the CPU and off for a
    GPU, where the tap has not been run yet. There is never a tap beside speculative decoding."""
    tap_address: str = "127.0.0.1:0"
    """host:port at which the daemon receives the tap's figures (UDP). Port 0 picks a free one. An engine that runs
    elsewhere needs a fixed port, and a host name at which it reaches the daemon."""

    @model_validator(mode="after")
    def _room_for_answers(self) -> "EntropySection":
        if self.max_tokens == "auto" and self.window_tokens < self.probe_count:
            raise ValueError(
                f"window_tokens = {self.window_tokens} leaves no token for each of probe_count = {self.probe_count} "
                "probes; raise window_tokens or lower probe_count"
            )
        return self

    def pause_after(self, window_s: float) -> float:
        """Seconds to the next scheduled window if a window takes `window_s` seconds on an idle engine."""
        return max(self.interval_s, window_s / self.max_share)

    @field_validator("max_tokens", mode="wrap")
    @classmethod
    def _number_or_auto(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        return or_auto(value, validate, "a whole number of at least 1")

    @field_validator("tap_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("not host:port, e.g. 127.0.0.1:8126")
        return value


class ControlSection(Options):
    mode: Literal["observe", "approve", "auto"] = "auto"
    """What follows a verdict of `trigger`: nothing (`observe`), a job that waits for `reheatd jobs approve`
    (`approve`), or a job at once (`auto`)."""
    trigger: list[Literal["collapsed", "stalled", "too_hot"]] = Field(default=["collapsed"], min_length=1)
    """Verdicts that act. `collapsed` and `stalled` lead to a reheat, `too_hot` to a cooling. A verdict that is not
    named here is shown and acts on nothing."""
    rl: Literal["off", "after_reheat", "continuous"] = "after_reheat"
    """Continued RL that the daemon starts by itself: none (`off`), a job after each job that answered a verdict
    (`after_reheat`), or one job of `rl.steps` steps after the other while the policy is healthy (`continuous`)."""
    cooldown_s: float = Field(default=600.0, ge=0)
    """Least time between two reheats that the daemon starts by itself, in seconds, and between a round of continuous RL
    that brought no new version and the next round."""
    max_queued: int = Field(default=4, ge=1)
    """Number of jobs that may wait; further ones are refused."""
    heartbeat_timeout_s: float = Field(default=120.0, gt=0)
    """Time without a report after which a worker is taken for dead, in seconds; another worker then resumes its job."""
    max_attempts: int = Field(default=3, ge=1)
    """A job fails when it has lost this many workers. Without a limit, a job that kills its workers would never end."""

    @field_validator("trigger")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"names {name!r} twice")
        return value


class GateSection(Options):
    entropy_tolerance: float = Field(default=0.15, gt=0, lt=1)
    """Relative distance from the target entropy within which a reheat passes."""
    accuracy_tolerance: float = Field(default=0.05, ge=0, le=1)
    """Largest loss of accuracy on the verifiable task that a new version may have against its parent. 1 allows any."""
    no_evidence: Literal["ask", "pass"] = "ask"
    """What follows if no gate failed but one could not tell: the version waits for `reheatd jobs approve` (`ask`), or
    is promoted as if the gate had passed (`pass`)."""
    proof_tolerance: float = Field(default=0.1, gt=0)
    """Largest mean absolute difference between the logprobs of engine and trainer that the proof of delivery allows, in
    nats per token."""


class AdaptersSection(Options):
    max_disk_bytes: int | None = Field(default=None, ge=1)
    """Largest size of all versions together, in bytes. Where a new version would exceed it, the oldest versions that
    nobody uses are deleted; if that is not enough, the new version is refused. Default: no limit."""
    max_import_bytes: int = Field(default=4 << 30, ge=1 << 20)
    """Largest size of an adapter that is imported, as it is sent and unpacked, in bytes."""
