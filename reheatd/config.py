"""Settings of the daemon: one TOML file, `REHEATD_*` environment variables and command-line values.

Later sources win: defaults, then the TOML file, then the environment (`REHEATD_ENTROPY__INTERVAL_S=30`), then the
command line. An unknown key or an unusable value raises `ConfigError` that names it.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from reheatd.errors import ConfigError

DEFAULT_CONFIG_FILE = "reheatd.toml"
BUILTIN_POLICY = "smollm2-135m-instruct"


class Section(BaseModel):
    """A table of the configuration file: unknown keys are errors, fields are documented by their description."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PolicySection(Section):
    model: str = BUILTIN_POLICY
    """Hugging Face model id, local folder, or the built-in `smollm2-135m-instruct`."""
    max_model_len: int = Field(default=1024, ge=64)
    """Longest prompt plus completion the engine accepts, in tokens."""


class ServerSection(Section):
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


class EngineSection(Section):
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
    extra_args: list[str] = []
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


class BrokerSection(Section):
    url: str | None = None
    """Redis URL of a broker that is already running; default: start an embedded Valkey as a child."""


class WorkersSection(Section):
    count: int = Field(default=1, ge=0)
    """Celery workers to start as children; 0 when they run elsewhere."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads each worker's torch may use; default: torch's own choice."""


class EntropySection(Section):
    probes: Path | None = None
    """JSONL file of probe prompts ({"messages": [...]} or {"prompt": "..."}); default: the bundled set."""
    probe_count: int = Field(default=32, ge=2)
    """Probe prompts sampled per window."""
    max_tokens: int = Field(default=48, ge=1)
    """Tokens sampled per probe."""
    top_k: int = Field(default=20, ge=1, le=63)
    """Top logprobs per token that the estimator uses."""
    interval_s: float = Field(default=120.0, gt=0)
    """Seconds between monitoring windows, at least."""
    max_share: float = Field(default=0.01, gt=0, le=1)
    """Most of the engine's time that scheduled windows may take: after one of s seconds the next comes s / max_share
    seconds later, where that is more than `interval_s`."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of the confidence intervals."""
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


class TaskSection(Section):
    path: Path | None = None
    """JSONL file of verifiable problems ({"prompt" | "messages", "answer"}); default: bundled arithmetic."""
    reward: str = "numeric"
    """Reward: `numeric`, `exact`, `regex`, `json_schema`, `unit_tests`, the name of another that is installed, or
    `module:function` called as f(completion: str, answer: str) -> float."""
    reward_timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Longest a reward may take for one completion, in seconds; one that takes longer is killed and scores 0."""
    eval_count: int = Field(default=48, ge=1)
    """Held-out problems used to compare accuracy before and after a job."""
    eval_samples: int = Field(default=4, ge=0)
    """Completions per held-out problem, at temperature 1, that pass@k is measured from; 0 turns pass@k off."""


class ControlSection(Section):
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


class GateSection(Section):
    entropy_tolerance: float = Field(default=0.15, gt=0, lt=1)
    """Relative distance from the target entropy within which a reheat passes."""
    accuracy_tolerance: float = Field(default=0.05, ge=0, le=1)
    """Most accuracy on the verifiable task a new version may lose against its parent."""
    rl_entropy_floor: float = Field(default=0.5, ge=0)
    """A version from continued RL must keep this share of the entropy baseline."""
    proof_tolerance: float = Field(default=0.1, gt=0)
    """Proof of delivery: largest mean absolute difference between engine and trainer, nats per token."""


class ReheatSection(Section):
    target_ratio: float = Field(default=0.85, gt=0)
    """Entropy target of a reheat the daemon starts by itself, as a share of the baseline."""
    ceiling_ratio: float = Field(default=1.2, gt=1)
    """A reheat by tau alone stops at this share of the baseline, or of the entropy it starts from if that is higher; a
    tau that leads beyond is lowered. The tail of a large vocabulary heats far more than a tau suggests."""
    steps: int = Field(default=30, ge=1)
    """Most optimiser steps of a reheat."""
    teacher: Literal["frozen", "live"] = "frozen"
    """Teacher: the collapsed policy as it was (`frozen`) or the student itself, without gradient (`live`)."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """Divergence between teacher and student."""
    min_p: float | None = Field(default=None, gt=0, lt=1)
    """Tail-safe teacher: re-temper only tokens with p >= min_p * max p, leave the tail as it was."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam learning rate of the LoRA weights."""
    prompts_per_step: int = Field(default=8, ge=1)
    """Rollouts per optimiser step."""
    max_tokens: int = Field(default=48, ge=1)
    """Tokens per rollout."""
    refresh_every: int = Field(default=4, ge=1)
    """Optimiser steps between two refreshes of the rollouts from the served engine."""


class RLSection(Section):
    steps: int = Field(default=20, ge=1)
    """Optimiser steps of one continued-RL job."""
    prompts_per_step: int = Field(default=4, ge=1)
    """Problems per optimiser step."""
    group_size: int = Field(default=4, ge=2)
    """Rollouts per problem."""
    max_tokens: int = Field(default=48, ge=1)
    """Tokens per rollout."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam learning rate of the LoRA weights."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the rollouts."""
    epochs: int = Field(default=1, ge=1)
    """Optimiser steps taken on each batch of rollouts."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio to the policy before the batch's first optimiser step is clipped at 1 - clip_low."""
    clip_high: float = Field(default=0.28, gt=0)
    """The same ratio is clipped at 1 + clip_high; above clip_low it leaves room to explore."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Truncation of the importance weight between the trainer's and the engine's log-probabilities."""
    normalise_std: bool = False
    """Whether advantages are divided by their group's standard deviation."""
    normalisation: Literal["tokens", "constant"] = "tokens"
    """What the summed loss is divided by: the batch's tokens (DAPO), or its rollouts times max_tokens (`constant`, Dr.
    GRPO), which does not favour short right answers and long wrong ones."""
    max_resamples: int = Field(default=2, ge=0)
    """A group whose rewards are all equal teaches nothing; so often per step, further problems replace such groups."""
    mask_truncated: bool = False
    """Whether rollouts that ended for length are left out of the loss."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of KL(student || parent) in the loss; 0 saves a forward pass per step."""


class LoraSection(Section):
    rank: int = Field(default=16, ge=1)
    """LoRA rank."""
    alpha: float = Field(default=32.0, gt=0)
    """LoRA alpha; the update is scaled by alpha / rank."""
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Modules that get a LoRA; the LM head never does."""


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
    task: TaskSection = TaskSection()
    control: ControlSection = ControlSection()
    gate: GateSection = GateSection()
    reheat: ReheatSection = ReheatSection()
    rl: RLSection = RLSection()
    lora: LoraSection = LoraSection()

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
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path, _all_keys(), n=1)
        hint = f"did you mean {close[0]}?" if close else "`reheatd init` writes a file with every key"
        return ConfigError(f"unknown configuration key {path}; {hint}", param=path)
    return ConfigError(f"{path} = {first['input']!r}: {first['msg']}", param=path)


def _all_keys() -> list[str]:
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            keys += [f"{name}.{key}" for key in section.model_fields]
        else:
            keys.append(name)
    return keys
