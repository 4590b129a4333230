"""The figures of a version that another version is compared by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reheatd.adapters.lineage import Lineage
from reheatd.client import Client
from reheatd.control.gates import LOSS_CONFIDENCE, paired_loss
from reheatd.errors import NotFoundError
from reheatd.measures import Accuracy, EntropyEstimate, PassRate
from reheatd.names import version_name

WINDOWS = 1000
"""Newest windows among which a version's own are looked for."""


@dataclass(frozen=True)
class Figures:
    """What is known of a version."""

    version: int
    state: str
    kind: str
    """How it was made; `base` for version 0."""
    made_at: float | None
    """Seconds since the epoch."""
    entropy: EntropyEstimate | None
    """In its newest window or, if it has none among the newest of all, as its job measured it; nats per token."""
    accuracy: Accuracy | None
    gates: Mapping[str, str] = field(default_factory=dict)
    """Outcomes of the gates of the job that made it, by name."""
    forebears: tuple[str, ...] = ()
    """The versions that it came from, the nearest first, each with how it was made."""

    @property
    def name(self) -> str:
        return version_name(self.version)

    def rates(self) -> dict[str, Accuracy | PassRate]:
        """Shares of held-out problems that it solves: avg@k, and pass@k for each k above 1."""
        if self.accuracy is None:
            return {}
        passes = {f"pass@{each.k}": each for each in self.accuracy.pass_at if each.k > 1}
        return {f"avg@{self.accuracy.samples}": self.accuracy, **passes}

    def gain(self, other: "Figures", name: str) -> str:
        """What a rate is higher than that of another version; of avg@k with the interval over the same problems."""
        mine, its = self.rates().get(name), other.rates().get(name)
        if mine is None or its is None:
            return ""
        gained = f"{mine.value - its.value:+.1%}"
        if not (isinstance(mine, Accuracy) and isinstance(its, Accuracy)):
            return gained
        if not mine.solved or len(mine.solved) != len(its.solved) or mine.problem_set != its.problem_set:
            return f"{gained} (other problems)"
        loss, low, high = paired_loss(its, mine)
        return f"{-loss:+.1%} \\[{-high:+.1%}, {-low:+.1%}], {LOSS_CONFIDENCE:.0%}"

    def as_json(self) -> dict[str, Any]:
        """The figures for programs."""
        return {
            "version": self.version,
            "name": self.name,
            "state": self.state,
            "kind": self.kind,
            "made_at": self.made_at,
            "entropy": None if self.entropy is None else self.entropy.model_dump(mode="json"),
            "accuracy": None if self.accuracy is None else self.accuracy.model_dump(mode="json"),
            "gates": dict(self.gates),
            "forebears": list(self.forebears),
        }


def compared(client: Client, first: int, second: int) -> tuple[Figures, Figures]:
    """The figures of two versions.

    Raises:
        NotFoundError: There is no such version.
    """
    views = [client.adapter(version) for version in (first, second)]
    lineages = {each.version: each.lineage for each in client.adapters().adapters}
    status, series = client.status(), client.entropy(last=WINDOWS)
    newest = {window.version: window.estimate for window in series.windows}
    if 0 not in newest and series.baseline is not None and status.baseline_of == "policy":
        newest[0] = series.baseline
    # What a job measured beside its version is the accuracy of the base, unless the policy has a reference.
    measured = None if status.reference else next((v.lineage.accuracy_base for v in views if v.lineage), None)
    made = []
    for view in views:
        lineage = view.lineage
        found = newest.get(view.version)
        made.append(
            Figures(
                version=view.version,
                state=view.state,
                kind="base" if not view.version else "lost" if lineage is None else lineage.kind,
                made_at=None if lineage is None else lineage.created_at,
                entropy=found if found is not None or lineage is None else lineage.entropy_after,
                accuracy=(measured if not view.version else None) if lineage is None else lineage.accuracy_after,
                gates=_gates(client, lineage),
                forebears=_forebears(lineages, view.version),
            )
        )
    return made[0], made[1]


def lineage_of(figures: Figures) -> str:
    """What a version came from, in one line."""
    return " <- ".join([f"{figures.name} ({figures.kind})", *figures.forebears])


def _gates(client: Client, lineage: Lineage | None) -> dict[str, str]:
    if lineage is None or lineage.job_id is None:
        return {}
    try:
        return {gate.name: gate.outcome for gate in client.job(lineage.job_id).gates}
    except NotFoundError:  # versions outlive the records of another daemon's jobs, for example after a restore
        return {}


def _forebears(lineages: Mapping[int, Lineage | None], version: int) -> tuple[str, ...]:
    found: list[str] = []
    while version:
        lineage = lineages.get(version)
        if lineage is None:
            found.append("unknown")
            break
        version = lineage.parent
        parent = lineages.get(version)
        how = "base" if not version else "deleted" if parent is None else parent.kind
        found.append(f"{version_name(version)} ({how})")
        if version and parent is None:
            break
    return tuple(found)
