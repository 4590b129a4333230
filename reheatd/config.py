"""Settings of the daemon: one TOML file, `REHEATD_*` environment variables and command-line values.

Later sources win: defaults, then the TOML file, then the environment (`REHEATD_ENTROPY__INTERVAL_S=30`), then the
command line. An unknown key or an unusable value raises a `ConfigError` that names it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from reheatd.config_alerts import AlertsSection
from reheatd.config_origins import DEFAULT, Origin, origins_of, preset_origins
from reheatd.config_server import ServerSection
from reheatd.config_sources import Environment, read_toml, refuse_unusable_text
from reheatd.config_tables import (
    AdaptersSection,
    BrokerSection,
    ControlSection,
    EngineSection,
    EntropySection,
    GateSection,
    PolicySection,
    WorkersSection,
)
from reheatd.config_tracing import TracingSection
from reheatd.config_trackers import TrackersSection
from reheatd.errors import ConfigError
from reheatd.measures import BaselineOf
from reheatd.options import (
    IDLE_CLIP,
    LORA_TARGETS,
    LoraOptions,
    Options,
    ReheatOptions,
    RLOptions,
    TaskOptions,
)
from reheatd.validation import first_problem, suggestion, unknown_names

DEFAULT_CONFIG_FILE = "reheatd.toml"


class Settings(BaseSettings):
    """All settings of the daemon. Build them with `load_settings`, which adds the TOML file and explains errors."""

    model_config = SettingsConfigDict(
        env_prefix="REHEATD_", env_nested_delimiter="__", extra="forbid", use_attribute_docstrings=True
    )

    data_dir: Path = Path(".reheatd")
    """Folder of everything that the daemon keeps: adapters, journal, series, logs and the broker's data."""
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
    adapters: AdaptersSection = AdaptersSection()
    alerts: AlertsSection = AlertsSection()
    tracing: TracingSection = TracingSection()
    trackers: TrackersSection = TrackersSection()
    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)
    """Where values come from that are not the default, by the dotted names of the settings."""

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        engine = self.engine
        if self.lora.rank > engine.max_lora_rank:
            raise ValueError(
                f"lora.rank = {self.lora.rank} is above engine.max_lora_rank = {engine.max_lora_rank}; raise "
                "max_lora_rank or lower the rank"
            )
        if self.entropy.top_k >= engine.max_logprobs:
            raise ValueError(
                f"entropy.top_k = {self.entropy.top_k} needs {self.entropy.top_k + 1} logprobs per token, more than "
                f"engine.max_logprobs = {engine.max_logprobs}; raise max_logprobs or lower top_k"
            )
        if self.policy.max_model_len != "auto":
            check_lengths(self, ValueError)
        if self.policy.reference is not None and self.entropy.baseline_nats is not None:
            raise ValueError(
                f"policy.reference = {self.policy.reference} and entropy.baseline_nats = {self.entropy.baseline_nats} "
                "are two baselines; give one"
            )
        if self.reheat.tau is not None and self.reheat.tau <= 1:
            raise ValueError(
                f"reheat.tau = {self.reheat.tau} would make every reheat a cooling; set it above 1, and give a tau "
                "below 1 to one job (`reheatd reheat --tau`)"
            )
        idle = self.rl.idle_clip(self.rl.model_dump(exclude_defaults=True))
        if idle is not None:
            raise ValueError(f"rl.{idle} = {getattr(self.rl, idle)} {IDLE_CLIP}")
        served = [module for fused in LORA_TARGETS.items() for module in (fused[0], *fused[1])]
        unserved = [module for module in self.lora.target_modules if module not in served]
        if unserved and "--lora-target-modules" not in engine.extra_args:
            raise ValueError(
                f"lora.target_modules names {', '.join(unserved)}, which the engine has no LoRA for; choose from "
                f"{', '.join(dict.fromkeys(served))}"
            )
        return self

    def origin(self, name: str) -> Origin:
        """Where the value of a setting comes from, e.g. that of `server.port`."""
        return self._origins.get(name, DEFAULT)

    def found_at_start(self, table: str, key: str, value: Any, by: str) -> "Settings":
        """These settings with a value that the daemon has found.

        Args:
            by: What it was found by.
        """
        section = getattr(self, table).model_copy(update={key: value})
        found = self.model_copy(update={table: section})
        found._origins = {**self._origins, f"{table}.{key}": Origin("start", by)}
        return found

    @property
    def baseline_of(self) -> BaselineOf:
        """Whose entropy the baseline is."""
        if self.entropy.baseline_nats is not None:
            return "given"
        return "policy" if self.policy.reference is None else "reference"

    @property
    def database_path(self) -> Path:
        return self.data_dir / "reheatd.sqlite3"

    @property
    def adapters_dir(self) -> Path:
        return self.data_dir / "adapters"

    @property
    def uploads_dir(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def jobs_dir(self) -> Path:
        return self.data_dir / "jobs"

    @property
    def reference_answers_file(self) -> Path:
        """The reference's answers to the held-out problems; see `reheatd.reference.answers`."""
        return self.data_dir / "reference-answers.json"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    @property
    def runs_dir(self) -> Path:
        """Folder of the files of trackers."""
        return self.trackers.folder or self.data_dir / "runs"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"


def check_lengths(settings: Settings, refused: Callable[[str], Exception]) -> None:
    """Checks that answers leave room for a prompt in `policy.max_model_len`, which must be a number by now.

    Raises:
        Exception: They do not; `refused` makes it.
    """
    for name, tokens in (
        ("reheat.max_tokens", settings.reheat.max_tokens),
        ("rl.max_tokens", settings.rl.max_tokens),
        ("entropy.max_tokens", settings.entropy.max_tokens),
        ("task.eval_max_tokens", settings.task.eval_max_tokens),
    ):
        if isinstance(tokens, int) and tokens >= settings.policy.length:
            raise refused(
                f"{name} = {tokens} leaves no room for a prompt in policy.max_model_len = {settings.policy.length}; "
                "raise max_model_len or ask for fewer tokens"
            )


def load_settings(file: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Reads the settings from `file`, the environment and `overrides`.

    Args:
        file: TOML file, which must exist. Default: `reheatd.toml` in the current folder, if there is one.
        overrides: Nested values from the command line, e.g. {"server": {"port": 8001}}; they win.

    Raises:
        ConfigError: A key is unknown or a value unusable; the message names it, its value and the way out.
    """
    if file is not None and not file.is_file():
        raise ConfigError(f"configuration file {file} does not exist; `reheatd init` writes one")
    source_file = file or Path(DEFAULT_CONFIG_FILE)
    in_file = read_toml(source_file) if source_file.is_file() else {}

    environment = Environment(Settings)

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
            return init_settings, environment, InitSettingsSource(settings_cls, in_file)

    try:
        settings = WithFile(**(overrides or {}))
    except SettingsError as error:
        raise ConfigError(str(error.__cause__ or error)) from error
    except ValidationError as error:
        raise _explain(error) from error
    refuse_unusable_text(settings.model_dump())
    settings._origins = origins_of(
        file=source_file,
        in_file=in_file,
        in_environment=environment(),
        variables=environment.env_vars,
        prefix=environment.env_prefix,
        on_command_line=overrides or {},
    )
    for name in Settings.model_fields:
        settings._origins |= preset_origins(name, getattr(settings, name), settings._origins)
    return settings


def _explain(error: ValidationError) -> ConfigError:
    for name in unknown_names(error):
        hint = suggestion(name, _all_keys(), "`reheatd init --full` writes a file with every key")
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
