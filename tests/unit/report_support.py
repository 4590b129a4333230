"""A report with figures that are easy to recognise."""

from reheatd.jobs.report import Comparison, JobReport, LayerSimilarity, PositionEntropy, TopK
from reheatd.measures import Accuracy, PassRate
from tests.unit.control_support import accuracy, entropy


def job_report() -> JobReport:
    return JobReport(
        job_id="reheat-1",
        kind="reheat",
        parent_version=0,
        steps=12,
        stopped="target",
        seconds=33.0,
        tau=1.5,
        target_entropy=1.7,
        entropy_before=entropy(0.8),
        entropy_after=entropy(1.6),
        accuracy_before=passing(20, 0.71),
        accuracy_after=passing(21, 0.82),
        comparison=Comparison(
            parent_entropy=entropy(0.8),
            student_entropy=entropy(1.6),
            parent_positions=[PositionEntropy(first=0, last=0, estimate=entropy(0.8))],
            student_positions=[PositionEntropy(first=0, last=0, estimate=entropy(1.6))],
            states=1000,
            kl_parent_student=0.123,
            kl_student_parent=0.2,
            top_k=[TopK(k=10, overlap=0.93, parent_mass=0.99, parent_mass_kept=0.98, student_mass=0.91)],
            layers=[LayerSimilarity(layer=1, mean=0.999, min=0.9), LayerSimilarity(layer=2, mean=0.987, min=0.8)],
        ),
    )


def passing(solved: int, pass_at_4: float) -> Accuracy:
    best = PassRate(k=4, value=pass_at_4, low=pass_at_4 - 0.1, high=pass_at_4 + 0.1)
    measured = accuracy(solved)
    return measured.model_copy(update={"pass_at": [*measured.pass_at, best]})
