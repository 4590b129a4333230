"""Recorded series run through a configuration, from the formats that users have."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from reheatd.config_tables import EntropySection
from reheatd.entropy.detector import CollapseDetector
from reheatd.entropy.replay import Recorded, read_recording, replay
from reheatd.errors import BadInputError
from reheatd.measures import EntropyEstimate

DETECTOR = CollapseDetector(EntropySection.model_validate({"collapse_ratio": 0.5, "patience": 2}))
COLLAPSE = [1.0, 0.9, 0.4, 0.4, 0.4, 0.7]


def lines(means: list[float], **more: Any) -> str:
    return "\n".join(json.dumps({"mean": mean, "low": mean - 0.1, "high": mean + 0.05, **more}) for mean in means)


def test_verdicts_are_the_detectors() -> None:
    windows = [
        Recorded(EntropyEstimate(mean=mean, low=mean, high=mean, tokens=1, sequences=2), 2.0)
        for mean in (2.0, 0.8, 0.8)
    ]
    replayed = replay(windows, DETECTOR)
    assert [(each.verdict, each.threshold) for each in replayed] == [("ok", 1.0), ("warning", 1.0), ("collapsed", 1.0)]
    assert replay(windows, DETECTOR)[1].ratio == pytest.approx(0.4)


def test_what_the_command_prints_is_read_back(tmp_path: Path) -> None:
    window = {
        "time": 5.0,
        "version": 3,
        "baseline": 2.0,
        "estimate": {"mean": 0.8, "low": 0.7, "high": 0.9, "tokens": 64, "sequences": 8},
    }
    file = tmp_path / "series.json"
    file.write_text(json.dumps({"baseline": None, "threshold": 1.0, "windows": [window]}, indent=1))
    (recorded,) = read_recording(file)
    assert (recorded.version, recorded.time, recorded.baseline, recorded.estimate.high) == (3, 5.0, 2.0, 0.9)
    assert read_recording(file, baseline=4.0)[0].baseline == 4.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no window"),
        ('{"windows": [3]}', "window 1: needs a JSON object"),
        ("nonsense", "line 1: not valid JSON"),
        ('{"mean": 1, "low": 1, "high": 1}', "--baseline"),
        ('{"mean": 1, "high": 1, "baseline": 1}', "line 1: low"),
        ('{"mean": 1, "low": 1, "high": 1, "baseline": 1}\n[1]', "line 2: needs a JSON object"),
        ('{"mean": 1, "low": 1, "high": 1, "baseline": 1, "version": "x"}', "version = 'x'"),
    ],
)
def test_unusable_files_are_named(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "series.jsonl"
    file.write_text(text)
    with pytest.raises(BadInputError, match=named):
        read_recording(file)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["reheatd", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
    out = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.out + out.err


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"estimate": 5}, "Input should be a valid dictionary"),
        ({"mean": 1, "low": 1, "high": 1, "baseline": 10**400}, "baseline = 1000"),
        ({"mean": 1, "low": 1, "high": 1, "baseline": 1, "time": 1e300}, "time = 1e.300 is out of range"),
        ({"mean": 1, "low": 1, "high": 1, "baseline": 1, "version": -1}, "version = -1 or"),
    ],
)
def test_figures_that_no_window_has_are_refused(entry: dict[str, Any], named: str, tmp_path: Path) -> None:
    file = tmp_path / "windows.jsonl"
    file.write_text(json.dumps(entry))
    with pytest.raises(BadInputError, match=named):
        read_recording(file)


def test_the_command_shows_where_the_verdict_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "series.jsonl"
    file.write_text(lines(COLLAPSE, baseline=1.0))
    code, text = run(capsys, "entropy", "replay", str(file), "--collapse-ratio", "0.5", "--json")
    assert code == 0
    verdicts = [window["verdict"] for window in json.loads(text)["windows"]]
    assert verdicts == ["ok", "ok", "warning", "collapsed", "collapsed", "ok"]
    code, text = run(capsys, "entropy", "replay", str(file), "--collapse-ratio", "0.5", "--patience", "3")
    assert code == 0
    assert "6 windows: 3 ok, 2 warning, 1 collapsed" in text


def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "series.jsonl"
    file.write_text(lines(COLLAPSE, baseline=1.0))
    code, text = run(capsys, "entropy", "replay", str(file), "--collapse-ratio", "1.5")
    assert code == 2
    assert "entropy.collapse_ratio = 1.5" in text
