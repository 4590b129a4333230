"""Settings of the daemon: one TOML file, `REHEATD_*` environment variables and command-line values.

Later sources win: defaults, then the TOML file, then the environment (`REHEATD_ENTROPY__INTERVAL_S=30`), then the
command line. An unknown key or an unusable value raises `ConfigError` that names it.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from reheatd.errors import ConfigError
from reheatd.options import (
    LORA_TARGETS,
    LoraOptions,
    NumberFormat,
    Options,
    ProbeOptions,
    ReheatOptions,
    RLOptions,
    TaskOptions,
)
from reheatd.validation import first_problem, suggestion, unknown_names

DEFAULT_CONFIG_FILE = "reheatd.toml"
BUILTIN_POLICY = "smollm2-135m-instruct"


class PolicySection(Options):
    model: str = BUILTIN_POLICY
    """Hugging Face model id, local folder, or the built-in `smollm2-135m-instruct`."""
    max_model_len: int = Field(default=1024, ge=64)
    """Longest prompt plus completion the engine accepts, in tokens."""


class ServerSection(Options):
    host: str = "127.0.0.1"
    """Address the gateway listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port the gateway listens on; 0 picks a free one."""
    public_url: str | None = None
    """URL under which workers on other machines reach the gateway; default: http://host:port."""
    drain_timeout_s: float = Field(default=20.0, ge=0)
    """Longest wait for requests in flight when the daemon stops or a version is replaced, in seconds."""
    max_concurrent_per_key: int | None = Field(default=None, ge=1)
    """Most requests a client may have in flight, by API key or else by address; more get 429. Default: no limit. Jobs'
    rollouts are not counted."""
    silence_timeout_s: float = Field(default=600.0, gt=0)
    """Longest a client waits without a byte from the engine, in seconds; then it gets 504 or an error in its stream."""


class EngineSection(Options):
    url: str | None = None
    """URL of a vLLM server that is already running, or several, separated by commas; default: start `replicas` of them
    as children on loopback."""
    replicas: int = Field(default=1, ge=1)
    """Engines of our own to start. All serve the same version; each gets its share of the cores or GPUs."""
    host: str = "127.0.0.1"
    """Address an engine of our own listens on. Its adapter endpoints know no keys: keep it off public networks."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port an engine of our own listens on, the next ones where there are several; 0 picks free ones."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Which vLLM build to expect; `auto` takes CUDA where a driver is present."""
    max_loras: int = Field(default=6, ge=4)
    """Adapter slots: one promoted, one candidate, two for a running job, the rest for pinned versions."""
    max_lora_rank: int = Field(default=16, ge=1)
    """Largest LoRA rank the engine accepts."""
    kv_cache_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """KV cache of each CPU engine, in bytes."""
    gpu_memory_utilization: float = Field(default=0.6, gt=0, lt=1)
    """Share of GPU memory the engine takes; the worker needs the rest when they share a GPU."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Most sequences the engine decodes at once."""
    max_logprobs: int = Field(default=64, ge=21)
    """Most logprobs per token a request may ask for; monitoring asks for 21."""
    cpu_threads_bind: str | None = None
    """`VLLM_CPU_OMP_THREADS_BIND` of every CPU engine; default: the cores this process may use, shared out."""
    startup_timeout_s: float = Field(default=300.0, gt=0)
    """Longest wait until the engine generates its first token, in seconds."""
    extra_args: list[str] = Field(default=[])
    """Further vLLM command-line arguments, passed through as they are."""

    @property
    def urls(self) -> list[str]:
        """The servers that are already running; empty when the engines are our own."""
        return [] if self.url is None else [url.strip() for url in self.url.split(",")]

    @model_validator(mode="after")
    def _engines(self) -> "EngineSection":
        if self.url is not None and self.replicas > 1:
            raise ValueError(
                f"replicas = {self.replicas} is about engines of our own, url names others; list them all in url, "
                "separated by commas, or leave it out"
            )
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"url has {url!r}, which is not like http://host:8100")
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"url = {self.url!r} names an engine twice")
        return self


class BrokerSection(Options):
    url: str | None = None
    """Redis URL of a broker that is already running; default: start an embedded Valkey as a child."""


class WorkersSection(Options):
    count: int = Field(default=1, ge=0)
    """Celery workers to start as children; 0 when they run elsewhere."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads each worker's torch may use; default: torch's own choice."""
    dtype: NumberFormat = "auto"
    """Number format of the frozen base model in the trainer; `auto`: bfloat16 where its products are native, else
    float32. LoRA weights are always float32."""
    retry_s: float = Field(default=180.0, gt=0)
    """How long a job's requests are repeated while the engine is away, in seconds: it needs half a minute or more to
    restart."""
    report_rollouts: int = Field(default=24, ge=2)
    """Rollouts of parent and of student that a job's report compares them on."""


class EntropySection(ProbeOptions):
    interval_s: float = Field(default=120.0, gt=0)
    """Seconds between monitoring windows, at least."""
    max_share: float = Field(default=0.01, gt=0, le=1)
    """Most of the engine's time that scheduled windows may take: after one of s seconds the next comes s / max_share
    seconds later, where that is more than `interval_s`."""
    baseline_windows: int = Field(default=3, ge=1)
    """Windows of the reference policy that make the baseline."""
    collapse_ratio: float = Field(default=0.5, gt=0, lt=1)
    """Collapsed: the upper confidence limit is below this share of the baseline for `patience` windows."""
    warning_ratio: float = Field(default=0.75, gt=0, le=1)
    """Warning: the estimate is below this share of the baseline."""
    recovery_ratio: float = Field(default=0.6, gt=0, le=1)
    """A collapsed policy is `ok` or `warning` again once the estimate is above this share of the baseline."""
    patience: int = Field(default=2, ge=1)
    """Consecutive windows below the collapse threshold before the verdict is `collapsed`."""
    live_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of clients' requests that the gateway asks `top_k` logprobs for, on its own, and takes out of the answer
    again: live entropy where the engine has no tap."""
    tap: Literal["auto", "on", "off"] = "auto"
    """Whether the engine measures the exact entropy of every token it decodes. `auto`: on the CPU, not on a GPU, where
    it has yet to be run; never beside speculative decoding."""
    tap_address: str = "127.0.0.1:0"
    """host:port at which the daemon hears what the engine measured (UDP). Port 0 picks a free one; an engine that runs
    apart needs a fixed one, and the daemon's name as the host."""

    def pause_after(self, window_s: float) -> float:
        """Seconds to the next scheduled window, when one takes `window_s` seconds on an engine that is idle."""
        return max(self.interval_s, window_s / self.max_share)

    @model_validator(mode="after")
    def _ordered(self) -> "EntropySection":
        if not self.collapse_ratio <= self.recovery_ratio <= self.warning_ratio:
            raise ValueError(
                f"need collapse_ratio <= recovery_ratio <= warning_ratio, got {self.collapse_ratio}, "
                f"{self.recovery_ratio}, {self.warning_ratio}"
            )
        return self

    @field_validator("tap_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("not host:port, e.g. 127.0.0.1:8126")
        return value


class ControlSection(Options):
    mode: Literal["observe", "approve", "auto"] = "auto"
    """What a collapse leads to: nothing, a job that waits for `reheatd jobs approve`, or a job at once."""
    cooldown_s: float = Field(default=600.0, ge=0)
    """Least time between two reheats that the daemon starts by itself, in seconds."""
    max_queued: int = Field(default=4, ge=1)
    """Jobs that may wait; more are refused."""
    continue_rl: bool = True
    """Whether continued RL follows a reheat that the daemon started by itself."""
    heartbeat_timeout_s: float = Field(default=120.0, gt=0)
    """A worker that has not reported for so long is taken for dead, in seconds; another resumes its job."""
    max_attempts: int = Field(default=3, ge=1)
    """Workers that one job may lose, the last included. A job whose own doing kills them must end some time."""


class GateSection(Options):
    entropy_tolerance: float = Field(default=0.15, gt=0, lt=1)
    """Relative distance from the target entropy within which a reheat passes."""
    accuracy_tolerance: float = Field(default=0.05, ge=0, le=1)
    """Most accuracy on the verifiable task a new version may lose against its parent."""
    rl_entropy_floor: float = Field(default=0.5, ge=0)
    """A version from continued RL must keep this share of the entropy baseline."""
    proof_tolerance: float = Field(default=0.1, gt=0)
    """Proof of delivery: largest mean absolute difference between engine and trainer, nats per token."""


class Settings(BaseSettings):
    """All settings. Build one with `load_settings`, which adds the TOML file and reports errors clearly."""

    model_config = SettingsConfigDict(
        env_prefix="REHEATD_", env_nested_delimiter="__", extra="forbid", use_attribute_docstrings=True
    )

    data_dir: Path = Path(".reheatd")
    """Folder of everything the daemon keeps: adapters, journal, series, logs, broker data."""
    policy: PolicySection = PolicySection()
    server: ServerSection = ServerSection()
    engine: EngineSection = EngineSection()
    broker: BrokerSection = BrokerSection()
    workers: WorkersSection = WorkersSection()
    entropy: EntropySection = EntropySection()
    task: TaskOptions = TaskOptions()
    control: ControlSection = ControlSection()
    gate: GateSection = GateSection()
    reheat: ReheatOptions = ReheatOptions()
    rl: RLOptions = RLOptions()
    lora: LoraOptions = LoraOptions()

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        engine, length = self.engine, self.policy.max_model_len
        if self.lora.rank > engine.max_lora_rank:
            raise ValueError(
                f"lora.rank = {self.lora.rank} is above engine.max_lora_rank = {engine.max_lora_rank}; raise that or "
                "lower the rank"
            )
        if self.entropy.top_k >= engine.max_logprobs:
            raise ValueError(
                f"entropy.top_k = {self.entropy.top_k} needs one logprob more than engine.max_logprobs = "
                f"{engine.max_logprobs} leaves; raise that or lower top_k"
            )
        for name, tokens in (
            ("reheat.max_tokens", self.reheat.max_tokens),
            ("rl.max_tokens", self.rl.max_tokens),
            ("entropy.max_tokens", self.entropy.max_tokens),
            ("task.eval_max_tokens", self.task.eval_max_tokens),
        ):
            if tokens >= length:
                raise ValueError(
                    f"{name} = {tokens} leaves no room for a prompt in policy.max_model_len = {length}; raise that or "
                    "ask for fewer tokens"
                )
        served = [module for fused in LORA_TARGETS.items() for module in (fused[0], *fused[1])]
        unserved = [module for module in self.lora.target_modules if module not in served]
        if unserved and "--lora-target-modules" not in engine.extra_args:
            raise ValueError(
                f"lora.target_modules names {', '.join(unserved)}, which the engine has no LoRA for; it has "
                f"{', '.join(dict.fromkeys(served))}"
            )
        return self

    @property
    def database_path(self) -> Path:
        return self.data_dir / "reheatd.sqlite3"

    @property
    def adapters_dir(self) -> Path:
        return self.data_dir / "adapters"

    @property
    def jobs_dir(self) -> Path:
        return self.data_dir / "jobs"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"


def load_settings(file: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Reads settings from `file` (default: `reheatd.toml` here, if there is one), environment and `overrides`.

    Args:
        file: TOML file; naming one that does not exist is an error.
        overrides: Nested values from the command line, e.g. {"server": {"port": 8001}}; they win.

    Raises:
        ConfigError: An unknown key or an unusable value; the message names it, its value and the way out.
    """
    if file is not None and not file.is_file():
        raise ConfigError(f"configuration file {file} does not exist; `reheatd init` writes one")
    source_file = file or Path(DEFAULT_CONFIG_FILE)

    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=source_file)

    try:
        return WithFile(**(overrides or {}))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {source_file} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise _explain(error) from error


def _explain(error: ValidationError) -> ConfigError:
    for name in unknown_names(error):
        hint = suggestion(name, _all_keys(), "`reheatd init` writes a file with every key")
        return ConfigError(f"unknown configuration key {name}; {hint}", param=name)
    name, message = first_problem(error)
    return ConfigError(message, param=name or None)


def _all_keys() -> list[str]:
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        table = field.annotation
        if isinstance(table, type) and issubclass(table, Options):
            keys += [f"{name}.{key}" for key in table.model_fields]
        else:
            keys.append(name)
    return keys
