"""The report of a job, written beside its adapter: `report.json`, `report.md`, the job's curves and plots."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reheatd.errors import ReheatdError
from reheatd.files import publish_folder
from reheatd.jobs.contracts import JobResult, ReheatSpec, RLSpec
from reheatd.jobs.curves import CURVES_FILE, CurvePoint
from reheatd.jobs.report import (
    REPORT_FILE,
    Comparison,
    JobReport,
    MeanOverRollouts,
    PositionFigures,
    TokenFigures,
)
from reheatd.measures import Accuracy, EntropyEstimate, PassRate
from workers.report_plots import (
    plot_curves,
    plot_entropy_by_position,
    plot_entropy_change,
    plot_layers,
    plot_logprob_by_position,
    plot_pass_at_k,
    plot_token_kl,
    plot_top_k,
)

MARKDOWN_FILE = "report.md"
ENTROPY_PLOT = "entropy_by_position.png"
LOGPROB_PLOT = "logprob_by_position.png"
KL_PLOT = "token_kl.png"
CHANGE_PLOT = "entropy_change.png"
LAYERS_PLOT = "cka.png"
TOP_K_PLOT = "top_k.png"
PASS_PLOT = "pass_at_k.png"
CURVES_PLOT = "curves.png"
BAR = r"\|"
"""A bar in a table's cell, where a plain one would end the cell."""

Row = tuple[str, ...]


def make_report(spec: ReheatSpec | RLSpec, result: JobResult, comparison: Comparison) -> JobReport:
    return JobReport(
        job_id=spec.job_id,
        kind=spec.kind,
        parent_version=spec.parent_version,
        steps=result.steps,
        stopped=result.stopped,
        why_stopped=result.why_stopped,
        seconds=result.seconds,
        remedy=result.remedy,
        tau=result.tau,
        factor=result.factor,
        target_entropy=spec.target_entropy if isinstance(spec, ReheatSpec) else None,
        entropy_before=result.entropy_before,
        entropy_after=result.entropy_after,
        accuracy_before=result.accuracy_before,
        accuracy_after=result.accuracy_after,
        signal_before=result.signal_before,
        signal_after=result.signal_after,
        comparison=comparison,
    )


def write_report(folder: Path, report: JobReport, curves: Sequence[CurvePoint]) -> None:
    """Writes the report.

    Args:
        folder: The folder to write, which appears complete or not at all; an existing one is replaced.
        curves: The metrics of the job's steps.

    Raises:
        ReheatdError: The report cannot be written.
    """
    try:
        with publish_folder(folder) as scratch:
            (scratch / REPORT_FILE).write_text(report.model_dump_json(indent=2) + "\n")
            (scratch / MARKDOWN_FILE).write_text("\n".join(markdown(report, curves)) + "\n")
            plot_entropy_by_position(scratch / ENTROPY_PLOT, report.comparison)
            plot_logprob_by_position(scratch / LOGPROB_PLOT, report.comparison)
            plot_token_kl(scratch / KL_PLOT, report.comparison)
            plot_entropy_change(scratch / CHANGE_PLOT, report.comparison)
            plot_top_k(scratch / TOP_K_PLOT, report.comparison)
            plot_layers(scratch / LAYERS_PLOT, report.comparison)
            if curves:
                (scratch / CURVES_FILE).write_text("".join(point.model_dump_json() + "\n" for point in curves))
                plot_curves(scratch / CURVES_PLOT, curves)
            plot_pass_at_k(scratch / PASS_PLOT, report.accuracy_before.pass_at, report.accuracy_after.pass_at)
    except OSError as error:
        raise ReheatdError(
            f"the report of {report.job_id} cannot be written to {folder}: {error.strerror or error}; "
            "free or repair the disk that holds data_dir and run the job again"
        ) from error


def markdown(report: JobReport, curves: Sequence[CurvePoint]) -> Iterator[str]:
    """The lines of `report.md`: first a table with the main figures, then plots, then every figure."""
    comparison = report.comparison
    yield f"# {report.job_id}: {report.kind} from policy-v{report.parent_version}"
    yield ""
    yield from _table(("", "before", "after"), _summary(report))
    yield ""
    yield "Intervals are 95%. Entropy, KL and log-probabilities are in nats per token at temperature 1."
    for title, plot in (
        ("Entropy by completion position", ENTROPY_PLOT),
        ("Log-probability of the sampled token by completion position", LOGPROB_PLOT),
        ("KL(parent || student) of each token", KL_PLOT),
        ("Change of entropy of each token", CHANGE_PLOT),
        ("Top candidates in the same states", TOP_K_PLOT),
        ("Hidden states of the same tokens", LAYERS_PLOT),
        ("pass@k on held-out problems", PASS_PLOT),
        *([("Training, step by step", CURVES_PLOT)] if curves else []),
    ):
        yield from ("", f"## {title}", "", f"![{title}]({plot})")
    yield from ("", f"## Change over {comparison.states} states", "")
    yield from _table(
        ("nats per token", "mean", "5%", "median", "95%"),
        [
            _quantiles("KL(parent || student)", comparison.token_kl),
            ("KL(student || parent)", f"{comparison.kl_student_parent:.4g}", "", "", ""),
            _quantiles("change of entropy", comparison.entropy_change),
        ],
    )
    yield from ("", f"## Candidates over {comparison.states} states", "")
    columns = ("k", "overlap", "parent's mass on its own", "student's mass on its own")
    yield from _table(
        (*columns, "parent's mass on those of both", "student's mass on those of both"),
        [
            (
                str(top.k),
                *(f"{v:.1%}" for v in (top.overlap, top.parent_mass, top.student_mass)),
                *(f"{v:.1%}" for v in (top.parent_shared_mass, top.student_shared_mass)),
            )
            for top in comparison.top_k
        ],
    )
    yield from ("", f"## Linear CKA of hidden states over {comparison.layer_tokens} tokens", "")
    yield from _table(("layer", "CKA"), [(str(layer.layer), f"{layer.cka:.5f}") for layer in comparison.layers])
    yield from ("", "## By completion position", "")
    columns = ("position", "entropy before", "after", "log-probability before", "after", "tokens before", "after")
    yield from _table(columns, _positions(comparison))


def _summary(report: JobReport) -> list[Row]:
    comparison = report.comparison
    parent, student, top = comparison.parent, comparison.student, comparison.top(10)
    target = "none" if report.target_entropy is None else f"{report.target_entropy:.3f}"
    last, least = comparison.layers[-1], min(comparison.layers, key=lambda layer: layer.cka)
    rows: list[Row] = [
        ("entropy on the probes, as served", _entropy(report.entropy_before), _entropy(report.entropy_after)),
        ("entropy, exact", _entropy(parent.entropy), _entropy(student.entropy)),
        ("target entropy", "", target),
        *_how(report),
        *_accuracy_rows(report.accuracy_before, report.accuracy_after),
        ("mean |log p| of samples", _entropy(parent.surprisal), _entropy(student.surprisal)),
        ("fork position, tokens", _mean(parent.greedy.fork_position, 1), _mean(student.greedy.fork_position, 1)),
        ("samples that never leave greedy", f"{parent.greedy.never_forked:.1%}", f"{student.greedy.never_forked:.1%}"),
        ("edit distance to greedy", _mean(parent.greedy.edit_distance, 3), _mean(student.greedy.edit_distance, 3)),
        ("token KL(before || after)", "", f"{comparison.token_kl.mean:.4g}"),
        ("change of entropy per token", "", f"{comparison.entropy_change.mean:+.4f}"),
        ("top-10 overlap", "", f"{top.overlap:.1%}"),
        ("mass on the shared top 10", f"{top.parent_shared_mass:.1%}", f"{top.student_shared_mass:.1%}"),
        ("mass on its own top 10", f"{top.parent_mass:.1%}", f"{top.student_mass:.1%}"),
        ("last-layer CKA", "", f"{last.cka:.5f}"),
        ("least CKA", "", f"{least.cka:.5f}, layer {least.layer}"),
    ]
    return rows


def _how(report: JobReport) -> Iterator[Row]:
    """What was done, how far it went, and what came back of lost problems."""
    if report.remedy is not None:
        yield ("remedy", "", report.remedy)
    if report.tau is not None:
        yield ("tau", "", f"{report.tau:.3f}")
    if report.factor is not None:
        yield ("factor of the LoRA", "1.000", f"{report.factor:.3f}")
    because = f": {report.why_stopped}" if report.why_stopped else ""
    yield ("steps", "", f"{report.steps}, stopped by {report.stopped}{because}")
    if report.signal_before is not None and report.signal_after is not None:
        yield ("problems that were lost", str(report.signal_before), str(report.signal_after))


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
    """One row per bucket of positions; the cells of a side without that bucket are empty."""
    sides = [{at.first: at for at in figures.positions} for figures in (comparison.parent, comparison.student)]

    def pair(first: int, cell: Callable[[PositionFigures], str]) -> list[str]:
        return [cell(side[first]) if first in side else "" for side in sides]

    return [
        (
            str(first),
            *pair(first, lambda at: _entropy(at.entropy)),
            *pair(first, lambda at: f"{-at.surprisal.mean:.3f}"),
            *pair(first, lambda at: str(at.entropy.tokens)),
        )
        for first in sorted(sides[0] | sides[1])
    ]


def _quantiles(name: str, figures: TokenFigures) -> Row:
    return (name, *(f"{value:.4g}" for value in (figures.mean, figures.p5, figures.median, figures.p95)))


def _table(header: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |"


def _entropy(estimate: EntropyEstimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _mean(value: MeanOverRollouts, digits: int) -> str:
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _share(value: Accuracy | PassRate) -> str:
    return f"{value.value:.1%} [{value.low:.1%}, {value.high:.1%}]"
