"""The report of a job: written whole or not at all, complete, and found beside the adapter."""

import json
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import JobResult, ReheatSpec
from reheatd.jobs.report import JobReport, read_report
from tests.unit.control_support import entropy
from tests.unit.test_comparison import policy_with, sample
from tests.unit.workers_support import job_fields
from workers import report as report_module
from workers.comparison import compare
from workers.evaluation import accuracy_from
from workers.report import make_report, write_report

PLOTS = {"entropy_by_position.png", "hidden_similarity.png", "pass_at_k.png", "top_k.png"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> JobReport:
    policy = policy_with(0.25)
    rollouts = sample(policy)
    folder = tmp_path_factory.mktemp("job")
    result = JobResult(
        adapter_dir=folder,
        steps=12,
        tau=1.5,
        entropy_before=entropy(0.8),
        entropy_after=entropy(1.6),
        accuracy_before=accuracy_from([0, 1, 4, 2], 4, "four problems"),
        accuracy_after=accuracy_from([1, 1, 4, 1], 4, "four problems"),
        proof=[],
        stopped="target",
        seconds=33.0,
    )
    spec = ReheatSpec(**job_fields(folder), target_entropy=1.65)
    return make_report(spec, result, compare(policy, rollouts, rollouts))


def test_a_report_is_json_markdown_and_plots(tmp_path: Path, report: JobReport) -> None:
    folder = tmp_path / "report"
    write_report(folder, report)
    assert read_report(folder) == report
    assert {file.name for file in folder.iterdir()} == {"report.json", "report.md", *PLOTS}
    text = (folder / "report.md").read_text()
    for plot in PLOTS:
        assert f"]({plot})" in text
        with Image.open(folder / plot) as image:
            image.verify()
    assert "| entropy on the probes, as served | 0.800 [0.750, 0.850] | 1.600 [1.550, 1.650] |" in text
    assert "| target entropy |  | 1.650 |" in text
    assert "| accuracy, avg@4 | 43.8% [" in text
    assert "| problems solved more often, less often |  | 1, 1 of 4 |" in text
    assert "| pass@4 | 75.0% [" in text
    top = report.comparison.top(10)
    assert f"| top-10 overlap |  | {top.overlap:.1%} |" in text


def test_a_report_of_an_earlier_version_can_still_be_read(tmp_path: Path, report: JobReport) -> None:
    stored = report.model_dump(mode="json")
    for side in ("before", "after"):
        stored[f"accuracy_{side}"] = {"value": 0.5, "low": 0.4, "high": 0.6, "problems": 48}
        stored[f"pass_at_k_{side}"] = {"rates": [], "problems": 48, "samples": 4}
    (tmp_path / "report.json").write_text(json.dumps(stored))
    assert read_report(tmp_path).accuracy_after.value == 0.5


def test_a_report_that_cannot_be_finished_leaves_no_half(tmp_path: Path, report: JobReport) -> None:
    folder = tmp_path / "report"
    full = OSError(28, "No space left on device")
    with (
        mock.patch.object(report_module, "plot_top_k", side_effect=full),
        pytest.raises(ReheatdError, match="No space"),
    ):
        write_report(folder, report)
    assert not folder.exists()
    write_report(folder, report)
    assert read_report(folder) == report


def test_a_damaged_report_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ReheatdError, match=str(tmp_path / "report.json")):
        read_report(tmp_path)
