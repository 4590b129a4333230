"""The alert rules and the configuration of Prometheus, by promtool, and the metrics that they name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from reheatd.config_alerts import SEVERITIES
from reheatd.jobs.contracts import JobStatus
from tests.prometheus import CONFIGURATION, ROOT, RULES, promtool, rules
from tests.unit.metrics_support import exposed_names, full_scrape

DOCS = ROOT / "docs/observability.md"

HEALTHY = {
    'up{job="reheatd"}': "1+0x120",
    'reheatd_verdict{verdict="ok"}': "1+0x120",
    'reheatd_verdict{verdict="collapsed"}': "0+0x120",
    'reheatd_verdict{verdict="too_hot"}': "0+0x120",
    'reheatd_verdict{verdict="stalled"}': "0+0x120",
    "reheatd_entropy_measurable{}": "1+0x120",
    'reheatd_jobs{kind="rl", status="failed"}': "2+0x120",
    'reheatd_jobs{kind="rl", status="succeeded"}': "0+1x120",
    "reheatd_paused{}": "0+0x120",
    'reheatd_swaps_total{result="promoted"}': "0+1x120",
    'reheatd_swaps_total{result="delivery_failed"}': "1+0x120",
    "reheatd_workers{}": "1+0x120",
    'reheatd_engine_up{engine="engine-1"}': "1+0x120",
    'reheatd_engine_up{engine="engine-2"}': "1+0x120",
    "reheatd_broker_up{}": "1+0x120",
    'reheatd_requests_total{source="client", version="policy-v1", status="200"}': "0+100x120",
    'reheatd_requests_total{source="client", version="policy-v1", status="503"}': "0+1x120",
    'reheatd_requests_total{source="job", version="none", status="503"}': "0+100x120",
}
"""Series by the minute of a daemon to which nothing happens that an alert tells, for two hours."""

CASES: list[tuple[str, dict[str, str], list[int], list[int]]] = [
    ("ReheatdPolicyCollapsed", {'reheatd_verdict{verdict="collapsed"}': "0 0 1+0x4 0+0x9"}, [3, 8], [4, 6]),
    ("ReheatdPolicyTooHot", {'reheatd_verdict{verdict="too_hot"}': "1+0x9"}, [4], [5]),
    ("ReheatdRunStalled", {'reheatd_verdict{verdict="stalled"}': "1+0x9"}, [4], [5]),
    ("ReheatdEntropyUnmeasured", {"reheatd_entropy_measurable{}": "0+0x19"}, [9], [10]),
    ("ReheatdJobFailing", {'reheatd_jobs{kind="rl", status="failed"}': "2+0x5 3+0x80"}, [5, 6, 75], [8, 50]),
    ("ReheatdJobsPaused", {"reheatd_paused{}": "0 1+0x5"}, [1], [2]),
    ("ReheatdProofFailed", {'reheatd_swaps_total{result="delivery_failed"}': "0+0x5 1+0x80"}, [5, 6, 75], [8, 50]),
    ("ReheatdNoWorker", {"reheatd_workers{}": "0+0x19"}, [9], [10]),
    ("ReheatdDown", {'up{job="reheatd"}': "1 0+0x5"}, [2], [3]),
    ("ReheatdEngineOut", {'reheatd_engine_up{engine="engine-1"}': "0+0x9"}, [2], [3, 6]),
    (
        "ReheatdNoEngine",
        {'reheatd_engine_up{engine="engine-1"}': "0+0x9", 'reheatd_engine_up{engine="engine-2"}': "0+0x9"},
        [1],
        [2],
    ),
    ("ReheatdBrokerOut", {"reheatd_broker_up{}": "0+0x9"}, [2], [3]),
    (
        "ReheatdRequestsFailing",
        {'reheatd_requests_total{source="client", version="policy-v1", status="broken"}': "0+10x30"},
        [5],
        [7],
    ),
]
"""Alert, what happens, the minutes at which it does not fire, and those at which it does and no other."""


def unit_tests(folder: Path, happens: dict[str, str], firing: dict[int, str | None]) -> Path:
    """A file for `promtool test rules`."""
    expected = {
        minute: [] if alert is None else [{"labels": f'{{alertname="{alert}"}}', "value": 1}]
        for minute, alert in firing.items()
    }
    content: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _of_a_daemon(series), "values": values} for series, values in (HEALTHY | happens).items()
                ],
                "promql_expr_test": [
                    {
                        "expr": 'sum by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minute}m",
                        "exp_samples": samples,
                    }
                    for minute, samples in expected.items()
                ],
            }
        ],
    }
    file = folder / "rules-test.yml"
    file.write_text(yaml.safe_dump(content))
    return file


def _of_a_daemon(series: str) -> str:
    name, labels = re.fullmatch(r"(\w+)\{(.*)\}", series).groups()  # type: ignore[union-attr]
    own = [] if "job=" in labels else ['job="reheatd"']
    every = ", ".join([*filter(None, [labels]), *own, 'instance="daemon"'])
    return f"{name}{{{every}}}"


@pytest.mark.parametrize(("alert", "happens", "silent", "loud"), CASES, ids=[case[0] for case in CASES])
def test_an_alert_fires_when_it_should_and_alone(
    tmp_path: Path, alert: str, happens: dict[str, str], silent: list[int], loud: list[int]
) -> None:
    firing = {**dict.fromkeys(silent, None), **dict.fromkeys(loud, alert)}
    promtool("test", "rules", unit_tests(tmp_path, happens, firing))


def test_nothing_fires_while_all_is_well(tmp_path: Path) -> None:
    promtool("test", "rules", unit_tests(tmp_path, {}, dict.fromkeys((0, 10, 60, 120), None)))


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    named = [rule["alert"] for rule in rules()]
    assert sorted(named) == sorted(case[0] for case in CASES)
    for rule in rules():
        assert rule["for"] and rule["labels"]["severity"] in SEVERITIES
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_the_docs_explain_every_alert_and_no_other() -> None:
    assert re.findall(r"^\| `(Reheatd\w+)` \|", DOCS.read_text(), re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_promtool_finds_nothing_wrong_with_the_files(tmp_path: Path) -> None:
    text = CONFIGURATION.read_text()
    for number, file in enumerate(re.findall(r"credentials_file: (\S+)", text)):
        key = tmp_path / f"key-{number}"
        key.write_text("rh-key")
        text = text.replace(file, str(key))
    (tmp_path / CONFIGURATION.name).write_text(text)
    (tmp_path / RULES.name).write_text(RULES.read_text())
    promtool("check", "config", tmp_path / CONFIGURATION.name)  # with the rules that it names
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_promtool_finds_nothing_wrong_with_the_metrics(tmp_path: Path) -> None:
    promtool("check", "metrics", text=full_scrape(tmp_path))


def test_the_rules_name_metrics_and_statuses_that_there_are(tmp_path: Path) -> None:
    expressions = " ".join(rule["expr"] for rule in rules())
    assert set(re.findall(r"\breheatd_\w+", expressions)) <= exposed_names(tmp_path)
    assert set(re.findall(r'reheatd_jobs\{status="(\w+)"', expressions)) <= {status.value for status in JobStatus}
