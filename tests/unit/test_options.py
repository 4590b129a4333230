"""Options are declared once: in the configuration, in requests, in specifications and on the command line alike."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reheatd.config import load_settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.specs import build_spec, check_request
from reheatd.errors import BadInputError, ConfigError
from reheatd.jobs.contracts import ReheatSpec, RLSpec, parse_request
from reheatd.options import ProbeOptions, ReheatOptions, RLOptions
from tests.known_settings import known_settings

OTHER_VALUES: dict[str, Any] = {
    "max_tokens": 96,
    "remedy": "hot",
    "tau": 1.75,
    "teacher": "frozen",
    "divergence": "jsd",
    "towards": 3,
    "normalisation": "constant",
}
NEEDED: dict[str, dict[str, Any]] = {
    "clip_low": {"epochs": 2},
    "clip_high": {"epochs": 2},
    "towards": {"remedy": "shrink"},
    "bonus_target": {"entropy_bonus": 0.01},
}
"""Options without which another has no meaning."""


def other_value(options: type[ReheatOptions | RLOptions], name: str) -> Any:
    """A value that is allowed and is not the default."""
    default = options.model_fields[name].default
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return 0.75 if default is None else default * 1.125


def spec_of(request: dict[str, Any], folder: Path, **tables: dict[str, Any]) -> ReheatSpec | RLSpec:
    settings = known_settings(data_dir=folder, **tables)
    policy = ServedPolicy("tiny", folder, "digest", vocabulary=50_000)
    return build_spec(
        parse_request(request),
        settings,
        policy,
        job_id="job",
        gateway_url="http://gateway",
        parent_version=0,
        parent_adapter=None,
        probes=ProbeOptions(),
        baseline=2.0,
        default_target=0.3,
    )


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        *(("reheat", ReheatOptions, name) for name in ReheatOptions.model_fields if name != "preset"),
        *(("rl", RLOptions, name) for name in RLOptions.model_fields if name != "preset"),
    ],
)
def test_every_option_reaches_the_job_from_configuration_and_request(
    kind: str, options: type[ReheatOptions | RLOptions], name: str, tmp_path: Path
) -> None:
    value = other_value(options, name)
    needed = NEEDED.get(name, {})
    assert getattr(spec_of({"kind": kind}, tmp_path, **{kind: {name: value, **needed}}), name) == value
    assert getattr(spec_of({"kind": kind, name: value, **needed}, tmp_path), name) == value


SHORT = {"policy": {"max_model_len": 512}}
PAPER = {"policy": {"max_model_len": 16_384}}
PAPERS_REHEAT = {"learning_rate": 1e-6, "prompts_per_step": 1024, "max_tokens": 4096, "tau": 1.2, "teacher": "live"}
PAPERS_RL = {"learning_rate": 2e-6, "prompts_per_step": 64, "group_size": 8, "max_tokens": 8192, "warmup_steps": 10}


@pytest.mark.parametrize(("kind", "figures"), [("reheat", PAPERS_REHEAT), ("rl", PAPERS_RL)])
def test_the_papers_preset_sets_its_figures_and_what_is_given_beside_it_wins(
    kind: str, figures: dict[str, Any], tmp_path: Path
) -> None:
    configured = spec_of({"kind": kind}, tmp_path, **PAPER, **{kind: {"preset": "paper", "max_grad_norm": 3.0}})
    asked = spec_of({"kind": kind, "preset": "paper"}, tmp_path, **PAPER, **{kind: {"learning_rate": 0.5}})
    for spec in (configured, asked):
        assert {name: getattr(spec, name) for name in figures} == figures
    assert configured.max_grad_norm == 3.0 and asked.max_grad_norm == 1.0
    beside = spec_of({"kind": kind, "learning_rate": 0.25}, tmp_path, **PAPER, **{kind: {"preset": "paper"}})
    assert beside.learning_rate == 0.25 and beside.max_tokens == figures["max_tokens"]
    assert beside.steps == type(beside).model_fields["steps"].default


def test_the_papers_preset_stops_at_its_share_of_the_baseline_unless_another_target_is_given(tmp_path: Path) -> None:
    request = {"kind": "reheat", "preset": "paper"}
    for asked, target in ((request, 0.15 * 2.0), (request | {"target_entropy": 0.7}, 0.7)):
        spec = spec_of(asked, tmp_path, **PAPER)
        assert isinstance(spec, ReheatSpec) and spec.target_entropy == pytest.approx(target)


def test_an_unknown_preset_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="preset = 'papers': must be 'paper'"):
        parse_request({"kind": "reheat", "preset": "papers"})
    file = tmp_path / "reheatd.toml"
    file.write_text('[rl]\npreset = "mine"\n')
    with pytest.raises(ConfigError, match=r"rl\.preset = 'mine'"):
        load_settings(file)


ADDING_ONE = """
import sys
from pydantic import Field
from reheatd import options

class More(options.{model}):
    flavour: int = Field(default=3, ge=1, description="How it tastes.")

options.{model} = More  # what is imported from here on sees the copy
from typer.testing import CliRunner
from cli.init import full_text
from cli.main import app
from reheatd.config import Settings
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import {spec}, parse_request

assert "# How it tastes.\\n# flavour = 3" in full_text()
assert Settings.model_validate({{"{table}": {{"flavour": 4}}}}).{table}.flavour == 4
assert parse_request({{"kind": "{table}", "flavour": 5}}).given() == {{"flavour": 5}}
try:
    parse_request({{"kind": "{table}", "flavour": 0}})
except BadInputError as error:
    assert error.param == "flavour" and "must be at least 1" in error.message
else:
    raise AssertionError("a value out of range was taken")
assert {spec}.model_fields["flavour"].default == 3
shown = CliRunner(env={{"COLUMNS": "200"}}).invoke(app, ["{table}", "--help"]).output
assert "--flavour" in shown and "How it tastes." in shown
"""


@pytest.mark.parametrize(
    ("model", "spec", "table"), [("ReheatOptions", "ReheatSpec", "reheat"), ("RLOptions", "RLSpec", "rl")]
)
def test_an_option_that_is_added_appears_everywhere(model: str, spec: str, table: str) -> None:
    script = ADDING_ONE.format(model=model, spec=spec, table=table)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("request_fields", "param", "says"),
    [
        ({"kind": "reheat", "seed": -1}, "seed", "at least 0"),
        ({"kind": "reheat", "seed": 2**64}, "seed", "below 9223372036854775808"),
        ({"kind": "rl", "temperature": 2.5}, "temperature", "at most 2"),
        ({"kind": "reheat", "target_ratio": float("inf")}, "target_ratio", "finite"),
        ({"kind": "reheat", "target_entropy": 4.7}, "target_entropy", "uniform distribution over 100 tokens"),
        ({"kind": "reheat", "target_ratio": 2.4}, "target_ratio", "uniform distribution over 100 tokens"),
        ({"kind": "rl", "max_tokens": 1024}, "max_tokens", "policy.max_model_len = 1024"),
        ({"kind": "rl", "group_sise": 4}, "group_sise", "did you mean group_size?"),
        ({"kind": "reheat", "ceiling_ratio": 1.2}, "ceiling_ratio", "any more; leave it out"),
        ({"kind": "rl", "steps": None}, "steps", "whole number"),
        ({"kind": "reheat", "teacher": "cold"}, "teacher", "'live' or 'frozen'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(request_fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as refused:
        check_request(parse_request(request_fields), known_settings(), vocabulary=100, baseline=2.0)
    assert refused.value.param == param


def test_a_request_may_take_an_option_back_that_is_configured(tmp_path: Path) -> None:
    spec = spec_of({"kind": "reheat", "min_p": None}, tmp_path, reheat={"min_p": 0.1})
    assert isinstance(spec, ReheatSpec) and spec.min_p is None


@pytest.mark.parametrize(
    ("request_fields", "configured", "target"),
    [
        ({}, {"target_entropy": 0.4}, 0.4),
        ({"target_ratio": 0.5}, {"target_entropy": 0.4}, 1.0),
        ({"tau": 1.5}, {"target_entropy": 0.4}, 0.4),
        ({"tau": 0.5}, {"target_entropy": 0.4}, None),
        ({}, {"tau": 1.2}, 0.3),
        ({}, {"target_ratio": 0.85}, 1.7),
        ({}, {}, 0.3),
    ],
)
def test_a_target_that_is_asked_for_wins_over_the_configured_one(
    request_fields: dict[str, Any], configured: dict[str, Any], target: float | None, tmp_path: Path
) -> None:
    spec = spec_of({"kind": "reheat", **request_fields}, tmp_path, reheat=configured)
    assert isinstance(spec, ReheatSpec)
    assert spec.target_entropy == (target if target is None else pytest.approx(target))
    assert spec.tau == {**configured, **request_fields}.get("tau")


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"lora": {"rank": 32}}, r"lora\.rank = 32 is above engine\.max_lora_rank = 16"),
        (SHORT | {"rl": {"max_tokens": 4096}}, r"rl\.max_tokens = 4096 leaves no room .* policy\.max_model_len = 512"),
        (SHORT | {"task": {"eval_max_tokens": 2048}}, r"task\.eval_max_tokens = 2048"),
        ({"rl": {"max_tokens": "long"}}, r"rl\.max_tokens = 'long': must be a whole number of at least 1, or 'auto'"),
        ({"reheat": {"max_tokens": 0}}, r"reheat\.max_tokens = 0: must be a whole number of at least 1, or 'auto'"),
        ({"task": {"eval_temperature": 0}}, r"task: eval_temperature = 0 .* eval_samples = 8; set eval_samples to 1"),
        ({"task": {"eval_samples": 0}}, r"task\.eval_samples = 0: must be at least 1"),
        ({"entropy": {"top_k": 30}, "engine": {"max_logprobs": 30}}, r"entropy\.top_k = 30 .* engine\.max_logprobs"),
        ({"lora": {"target_modules": ["q_proj", "lm_head"]}}, r"lora\.target_modules names lm_head"),
        ({"lora": {"target_modules": []}}, r"lora\.target_modules = \[\]: must have at least 1 entries"),
        ({"reheat": {"target_ratio": float("inf")}}, r"reheat\.target_ratio = inf: must be a finite number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_settings(overrides=tables)


def test_modules_of_another_architecture_are_the_engines_to_know() -> None:
    extra = {"engine": {"extra_args": ["--lora-target-modules", "c_attn"]}, "lora": {"target_modules": ["c_attn"]}}
    assert load_settings(overrides=extra).lora.target_modules == ["c_attn"]
