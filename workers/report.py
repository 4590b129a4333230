"""The report of a job, written beside its adapter: `report.json`, `report.md` and plots."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from reheatd.errors import ReheatdError
from reheatd.files import publish_folder
from reheatd.jobs.contracts import JobResult, ReheatSpec, RLSpec
from reheatd.jobs.report import REPORT_FILE, Comparison, JobReport
from reheatd.measures import Accuracy, EntropyEstimate, PassRate
from workers.report_plots import plot_layers, plot_pass_at_k, plot_positions, plot_top_k

MARKDOWN_FILE = "report.md"
POSITIONS_PLOT = "entropy_by_position.png"
LAYERS_PLOT = "hidden_similarity.png"
TOP_K_PLOT = "top_k.png"
PASS_PLOT = "pass_at_k.png"

Row = tuple[str, ...]


def make_report(spec: ReheatSpec | RLSpec, result: JobResult, comparison: Comparison) -> JobReport:
    return JobReport(
        job_id=spec.job_id,
        kind=spec.kind,
        parent_version=spec.parent_version,
        steps=result.steps,
        stopped=result.stopped,
        seconds=result.seconds,
        tau=result.tau,
        target_entropy=spec.target_entropy if isinstance(spec, ReheatSpec) else None,
        entropy_before=result.entropy_before,
        entropy_after=result.entropy_after,
        accuracy_before=result.accuracy_before,
        accuracy_after=result.accuracy_after,
        comparison=comparison,
    )


def write_report(folder: Path, report: JobReport) -> None:
    """Writes the report.

    Args:
        folder: The folder to write, which appears complete or not at all; an existing one is replaced.

    Raises:
        ReheatdError: The report cannot be written.
    """
    try:
        with publish_folder(folder) as scratch:
            (scratch / REPORT_FILE).write_text(report.model_dump_json(indent=2) + "\n")
            (scratch / MARKDOWN_FILE).write_text("\n".join(markdown(report)) + "\n")
            plot_positions(scratch / POSITIONS_PLOT, report.comparison)
            plot_layers(scratch / LAYERS_PLOT, report.comparison)
            plot_top_k(scratch / TOP_K_PLOT, report.comparison)
            plot_pass_at_k(scratch / PASS_PLOT, report.accuracy_before.pass_at, report.accuracy_after.pass_at)
    except OSError as error:
        raise ReheatdError(
            f"the report of {report.job_id} cannot be written to {folder}: {error.strerror or error}; "
            "free or repair the disk that holds data_dir and run the job again"
        ) from error


def markdown(report: JobReport) -> Iterator[str]:
    """The lines of `report.md`: first a table with the main figures, then plots, then every figure."""
    comparison = report.comparison
    yield f"# {report.job_id}: {report.kind} from policy-v{report.parent_version}"
    yield ""
    yield from _table(("", "before", "after"), _summary(report))
    yield ""
    yield "Intervals are 95%. Entropy is in nats per token at temperature 1."
    for title, plot in (
        ("Entropy by completion position", POSITIONS_PLOT),
        ("Top candidates in the same states", TOP_K_PLOT),
        ("Hidden states in the same states", LAYERS_PLOT),
        ("pass@k on held-out problems", PASS_PLOT),
    ):
        yield from ("", f"## {title}", "", f"![{title}]({plot})")
    yield from ("", f"## Candidates and divergence over {comparison.states} states", "")
    yield f"KL(parent || student) {comparison.kl_parent_student:.4f}, "
    yield f"KL(student || parent) {comparison.kl_student_parent:.4f} nats per token."
    yield ""
    columns = ("k", "overlap", "parent's mass on its own k", "on the student's k", "student's mass on its own k")
    yield from _table(
        columns,
        [
            (str(top.k), *(f"{v:.1%}" for v in (top.overlap, top.parent_mass, top.parent_mass_kept, top.student_mass)))
            for top in comparison.top_k
        ],
    )
    yield from ("", "## Cosine similarity of hidden states", "")
    yield from _table(
        ("layer", "mean", "least similar state"),
        [(str(layer.layer), f"{layer.mean:.4f}", f"{layer.min:.4f}") for layer in comparison.layers],
    )
    yield from ("", "## Entropy by position, nats per token", "")
    yield from _table(("position", "before", "after"), _positions(comparison))


def _summary(report: JobReport) -> list[Row]:
    comparison = report.comparison
    top = comparison.top(10)
    target = "none" if report.target_entropy is None else f"{report.target_entropy:.3f}"
    rows: list[Row] = [
        ("entropy on the probes, as served", _entropy(report.entropy_before), _entropy(report.entropy_after)),
        ("entropy, exact", _entropy(comparison.parent_entropy), _entropy(comparison.student_entropy)),
        ("target entropy", "", target),
        ("tau", "", "none" if report.tau is None else f"{report.tau:.3f}"),
        ("steps", "", f"{report.steps}, stopped by {report.stopped}"),
        *_accuracy_rows(report.accuracy_before, report.accuracy_after),
        ("top-10 overlap", "", f"{top.overlap:.1%}"),
        ("mass on its own top 10", f"{top.parent_mass:.1%}", f"{top.student_mass:.1%}"),
        ("last-layer similarity", "", f"{comparison.layers[-1].mean:.4f}"),
    ]
    return rows


def _accuracy_rows(before: Accuracy, after: Accuracy) -> list[Row]:
    """avg@k, which is pass@1, how many problems got more or fewer answers right, and pass@k for k above 1."""
    pairs = list(zip(before.solved, after.solved, strict=True))
    won, lost = sum(new > old for old, new in pairs), sum(new < old for old, new in pairs)
    return [
        (f"accuracy, avg@{after.samples}", _share(before), _share(after)),
        ("problems solved more often, less often", "", f"{won}, {lost} of {after.problems}"),
        *(
            (f"pass@{old.k}", _share(old), _share(new))
            for old, new in zip(before.pass_at[1:], after.pass_at[1:], strict=True)
        ),
    ]


def _positions(comparison: Comparison) -> list[Row]:
    """One row per bucket of positions; the cell of a side without that bucket is empty."""
    before = {bucket.first: bucket for bucket in comparison.parent_positions}
    after = {bucket.first: bucket for bucket in comparison.student_positions}
    rows: list[Row] = []
    for first in sorted(before | after):
        cells = [
            f"{_entropy(b.estimate)}, {b.estimate.tokens} tokens" if b else ""
            for b in (before.get(first), after.get(first))
        ]
        rows.append((str(first), *cells))
    return rows


def _table(header: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _entropy(estimate: EntropyEstimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _share(value: Accuracy | PassRate) -> str:
    return f"{value.value:.1%} [{value.low:.1%}, {value.high:.1%}]"
