"""From requests and settings to specifications."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.adapters.lineage import Lineage
from reheatd.config import Settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.specs import build_spec, check_collapsed, check_request, lineage_kind
from reheatd.entropy.detector import Verdict
from reheatd.entropy.regime import Thresholds
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatSpec, RLSpec, parse_request
from reheatd.measures import EntropyEstimate
from reheatd.options import ProbeOptions
from tests.known_settings import known_settings
from tests.unit.control_figures import accuracy, entropy
from tests.unit.control_support import World

WINDOW = entropy(0.9)
"""Of the newest window of the parent."""
PROBES = ProbeOptions(probes=Path("probes.jsonl"), max_tokens=64, digest="these prompts")
"""How the daemon measures."""


def spec_of(
    tmp_path: Path, lineage: Lineage | None = None, newest: EntropyEstimate | None = WINDOW, **request: Any
) -> ReheatSpec | RLSpec:
    settings = Settings.model_validate(
        {
            "data_dir": "relative",
            "policy": {"max_model_len": 1024},
            "engine": {"max_num_seqs": 30, "replicas": 2},
            "reheat": {"target_ratio": 0.8, "steps": 7, "min_p": 0.1},
            "rl": {"steps": 9, "group_size": 3, "max_tokens": 48},
            "lora": {"rank": 4},
            "task": {"path": "tasks.jsonl", "reward_timeout_s": 2.5},
            "workers": {"report_rollouts": 6, "rollouts_kept": 50, "retry_s": 7.0},
        }
    )
    return build_spec(
        parse_request(request),
        settings,
        ServedPolicy("tiny", tmp_path, "digest", vocabulary=100),
        job_id="reheat-1",
        gateway_url="http://gateway",
        parent_version=3,
        parent_adapter=tmp_path / "policy-v3",
        probes=PROBES,
        baseline=2.0,
        default_target=0.3,
        parent_entropy=newest,
        parent_lineage=lineage,
    )


def test_unset_fields_come_from_the_settings_and_paths_are_absolute(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, kind="reheat", tau=1.5)
    assert isinstance(spec, ReheatSpec)
    assert (spec.steps, spec.min_p, spec.lora.rank) == (7, 0.1, 4)
    assert spec.probes == PROBES.model_copy(update={"probes": Path("probes.jsonl").resolve()})
    assert (spec.tau, spec.target_entropy, spec.parent_version) == (1.5, pytest.approx(1.6), 3)
    assert spec.output_dir == Path("relative/jobs/reheat-1").resolve()
    assert spec.task.path == Path("tasks.jsonl").resolve()
    assert spec.task.reward_timeout_s == 2.5
    assert (spec.report_rollouts, spec.rollouts_kept, spec.retry_s) == (6, 50, 7.0)
    assert spec.sequences_at_once == 2 * 22  # three quarters of what the engines decode at once
    folder = Path("relative/jobs/reheat-1").resolve()
    assert (spec.curves_file, spec.rollouts_file) == (folder / "curves.jsonl", folder / "rollouts.jsonl")


def test_a_request_wins_over_the_settings(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, kind="rl", steps=2, temperature=0.7, learning_rate=0.5, seed=4)
    assert isinstance(spec, RLSpec)
    assert (spec.steps, spec.temperature, spec.learning_rate, spec.seed, spec.group_size) == (2, 0.7, 0.5, 4, 3)


@pytest.mark.parametrize(
    ("request_fields", "tokens"),
    [({"kind": "rl"}, 48), ({"kind": "rl", "max_tokens": 96}, 96), ({"kind": "reheat", "max_tokens": 96}, 48)],
)
def test_answers_to_held_out_problems_are_as_long_as_rollouts_of_rl(
    tmp_path: Path, request_fields: dict[str, Any], tokens: int
) -> None:
    assert spec_of(tmp_path, **request_fields).task.eval_max_tokens == tokens


@pytest.mark.parametrize(
    ("request_fields", "target"),
    [
        ({}, 0.3),
        ({"force": True}, 1.2 * 0.9),
        ({"force": True, "tau": 1.5}, 1.2 * 0.9),
        ({"force": True, "target_entropy": 1.0}, 1.0),
        ({"force": True, "tau": 0.5}, None),
    ],
)
def test_a_forced_reheat_rises_by_a_fifth(tmp_path: Path, request_fields: dict[str, Any], target: float | None) -> None:
    spec = build_spec(
        parse_request({"kind": "reheat", **request_fields}),
        known_settings(data_dir=tmp_path),
        ServedPolicy("tiny", tmp_path, "digest", vocabulary=100),
        job_id="reheat-1",
        gateway_url="http://gateway",
        parent_version=3,
        parent_adapter=tmp_path,
        probes=PROBES,
        baseline=2.0,
        default_target=0.3,
        parent_entropy=entropy(0.9),
    )
    assert isinstance(spec, ReheatSpec)
    assert spec.target_entropy == (target if target is None else pytest.approx(target))


LIMITS = Thresholds(0.2, 0.24, None, 0.3, "10% of the baseline")


@pytest.mark.parametrize(
    ("request_fields", "verdict", "mean"),
    [
        ({"kind": "reheat"}, "collapsed", 0.15),
        ({"kind": "reheat"}, "collapsed", 0.23),
        ({"kind": "reheat"}, "warning", 0.19),
        ({"kind": "reheat"}, "stalled", 0.9),
        ({"kind": "reheat"}, None, None),
        ({"kind": "reheat", "force": True}, "ok", 1.9),
        ({"kind": "reheat", "tau": 0.5}, "ok", 1.9),
        ({"kind": "rl"}, "ok", 1.9),
    ],
)
def test_collapsed_policies_are_reheated_and_others_with_force(
    request_fields: dict[str, Any], verdict: Verdict | None, mean: float | None
) -> None:
    check_collapsed(parse_request(request_fields), verdict, None if mean is None else entropy(mean), LIMITS)


@pytest.mark.parametrize(("verdict", "mean"), [("ok", 1.9), ("warning", 0.22), ("too_hot", 7.0)])
def test_a_policy_that_has_not_collapsed_is_not_reheated(verdict: Verdict, mean: float) -> None:
    with pytest.raises(BadInputError, match=rf"{mean:.3f} .* threshold is 0.200 \(10% of the bas"):
        check_collapsed(parse_request({"kind": "reheat", "tau": 1.5}), verdict, entropy(mean), LIMITS)


def test_what_is_known_of_the_parent_is_not_measured_again(tmp_path: Path) -> None:
    first = spec_of(tmp_path, kind="rl")
    assert (first.parent_entropy, first.parent_accuracy) == (entropy(0.9), None)
    lineage = Lineage(
        version=3,
        parent=0,
        base_model="tiny",
        base_digest="d",
        digest="d",
        kind="rl",
        spec=first.model_dump(mode="json"),
        accuracy_after=accuracy(20),
        entropy_after=entropy(1.1),
    )
    assert spec_of(tmp_path, lineage, kind="reheat", tau=1.5).parent_accuracy == accuracy(20)
    assert spec_of(tmp_path, lineage, kind="rl").parent_entropy == WINDOW
    assert spec_of(tmp_path, lineage, None, kind="rl").parent_entropy == entropy(1.1)
    for changed in ({"max_tokens": 65}, {"digest": "other prompts"}):
        before, lineage.spec["probes"] = lineage.spec["probes"], lineage.spec["probes"] | changed
        assert spec_of(tmp_path, lineage, None, kind="rl").parent_entropy is None
        lineage.spec["probes"] = before
    lineage.spec["task"]["eval_count"] += 1
    assert spec_of(tmp_path, lineage, kind="reheat", tau=1.5).parent_accuracy is None


@pytest.mark.parametrize(
    ("request_fields", "target"),
    [
        ({}, 1.6),
        ({"target_ratio": 0.5}, 1.0),
        ({"target_entropy": 0.3}, 0.3),
        ({"tau": 2.0}, 1.6),
        ({"tau": 0.5}, None),
        ({"tau": 0.5, "target_ratio": 0.35}, 0.7),
    ],
)
def test_ratios_become_targets_in_nats(tmp_path: Path, request_fields: dict[str, Any], target: float | None) -> None:
    spec = spec_of(tmp_path, kind="reheat", **request_fields)
    assert isinstance(spec, ReheatSpec)
    assert spec.target_entropy == (target if target is None else pytest.approx(target))


@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"kind": "reheat", "tau": 1.0}, "tau"),
        ({"kind": "rl", "tau": 1.5}, "tau"),
        ({"kind": "rl", "target_ratio": 0.5}, "target_ratio"),
        ({"kind": "reheat", "temperature": 0.5}, "temperature"),
        ({"kind": "reheat", "target_ratio": 0.5, "target_entropy": 1.0}, "target_ratio"),
        ({"kind": "rl", "clip_high": 0.3}, "clip_high"),
    ],
)
def test_requests_that_make_no_sense_name_the_field(request_fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInputError) as raised:
        check_request(parse_request(request_fields), known_settings(), vocabulary=100, baseline=2.0)
    assert raised.value.param == param


@pytest.mark.parametrize("remedy", ["ts_opsd", "shrink", "auto"])
def test_options_that_are_null_ask_for_nothing(remedy: str) -> None:
    request = {"kind": "reheat", "remedy": remedy, "tau": None, "towards": None, "target_ratio": None}
    check_request(parse_request(request | {"target_entropy": None}), known_settings(), vocabulary=100, baseline=2.0)
    check_request(parse_request(request | {"target_entropy": 1.0}), known_settings(), vocabulary=100, baseline=2.0)


def test_a_request_that_contradicts_the_settings_is_refused(tmp_path: Path) -> None:
    settings = known_settings(rl={"entropy_bonus": 0.01, "bonus_target": 0.5})
    request = parse_request({"kind": "rl", "temperature": 0.7})
    with pytest.raises(BadInputError, match=r"bonus_target = 0\.5 needs rollouts at temperature 1"):
        check_request(request, settings, vocabulary=100)


@pytest.mark.parametrize("more", [{"epochs": 2}, {"minibatches": 2}])
def test_a_clip_is_accepted_where_it_can_act(more: dict[str, int]) -> None:
    request = {"kind": "rl", "clip_high": 0.3}
    check_request(parse_request(request | more), known_settings(), vocabulary=100)
    check_request(parse_request(request), known_settings(rl=more), vocabulary=100)


@pytest.mark.parametrize(
    ("request_fields", "before", "kind"),
    [
        ({"kind": "rl"}, 1.0, "rl"),
        ({"kind": "reheat", "tau": 1.5}, 1.0, "reheat"),
        ({"kind": "reheat", "tau": 0.5}, 1.0, "cool"),
        ({"kind": "reheat", "target_entropy": 1.5}, 1.0, "reheat"),
        ({"kind": "reheat", "target_entropy": 1.5}, 1.9, "cool"),
    ],
)
def test_lineage_says_whether_a_version_was_heated_or_cooled(
    tmp_path: Path, request_fields: dict[str, Any], before: float, kind: str
) -> None:
    spec = spec_of(tmp_path, **request_fields)
    spec = spec.model_copy(update={"output_dir": tmp_path})
    result = World(tmp_path / "world").result(spec, entropy_before=entropy(before))
    assert lineage_kind(spec, result) == kind
