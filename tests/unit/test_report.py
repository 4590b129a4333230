"""The report of a job: written whole or not at all, complete, and found beside the adapter."""

from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import JobResult, ReheatSpec
from reheatd.jobs.curves import CurvePoint, read_curves
from reheatd.jobs.report import JobReport, read_report
from tests.unit.control_figures import entropy
from tests.unit.test_comparison import completions, policy_with
from tests.unit.workers_support import job_fields
from workers import report as report_module
from workers.comparison import compare
from workers.evaluation import accuracy_from
from workers.report import make_report, write_report

PLOTS = {
    "cka.png",
    "curves.png",
    "entropy_by_position.png",
    "entropy_change.png",
    "logprob_by_position.png",
    "pass_at_k.png",
    "token_kl.png",
    "top_k.png",
}
CURVES = [
    CurvePoint(step=0, metrics={"accuracy": 0.5}),
    CurvePoint(step=1, metrics={"loss": 0.2, "entropy": 0.9, "grad_norm": 1.5}),
    CurvePoint(step=2, metrics={"loss": 0.1, "entropy": 1.1, "grad_norm": 1.2, "accuracy": 0.5}),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> JobReport:
    policy = policy_with(0.25)
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
    with policy.as_teacher():
        parent = completions(policy)
    return make_report(spec, result, compare(policy, parent, completions(policy)))


def test_a_report_is_json_markdown_and_plots(tmp_path: Path, report: JobReport) -> None:
    folder = tmp_path / "report"
    write_report(folder, report, CURVES)
    assert read_report(folder) == report
    assert {file.name for file in folder.iterdir()} == {"report.json", "report.md", "curves.jsonl", *PLOTS}
    assert read_curves(folder / "curves.jsonl") == CURVES
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
    assert f"| mass on the shared top 10 | {top.parent_shared_mass:.1%} | {top.student_shared_mass:.1%} |" in text
    before, after = report.comparison.parent.greedy, report.comparison.student.greedy
    assert f"| fork position, tokens | {before.fork_position.mean:.1f} [" in text
    assert f"] | {after.fork_position.mean:.1f} [" in text
    assert rf"| token KL(before \|\| after) |  | {report.comparison.token_kl.mean:.4g} |" in text
    rows = [line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("| ")]
    assert set(rows[:20]) == {4}  # a bar inside a cell would add a column
    for layer in report.comparison.layers:
        assert f"| {layer.layer} | {layer.cka:.5f} |" in text


def test_a_job_without_curves_has_a_report_without_them(tmp_path: Path, report: JobReport) -> None:
    folder = tmp_path / "report"
    write_report(folder, report, [])
    assert "step by step" not in (folder / "report.md").read_text()
    assert {file.name for file in folder.glob("*.png")} == PLOTS - {"curves.png"}


def test_a_report_that_cannot_be_finished_leaves_no_half(tmp_path: Path, report: JobReport) -> None:
    folder = tmp_path / "report"
    full = OSError(28, "No space left on device")
    with (
        mock.patch.object(report_module, "plot_top_k", side_effect=full),
        pytest.raises(ReheatdError, match="No space"),
    ):
        write_report(folder, report, CURVES)
    assert not folder.exists()
    write_report(folder, report, CURVES)
    assert read_report(folder) == report


def test_a_report_of_an_earlier_version_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"job_id": "reheat-1", "comparison": {"kl_parent_student": 0.1}}')
    assert read_report(tmp_path) is None


def test_a_damaged_report_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ReheatdError, match=str(tmp_path / "report.json")):
        read_report(tmp_path)
