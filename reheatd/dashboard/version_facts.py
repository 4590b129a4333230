"""What pages say of a version: its lineage, what was measured of it, and whether it passed its gates."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from reheatd.adapters.lineage import Lineage
from reheatd.adapters.store import AdapterStore, VersionInfo
from reheatd.api.context import ApiContext
from reheatd.errors import NotFoundError
from reheatd.jobs.contracts import GateResult
from reheatd.measures import Accuracy, EntropyEstimate, PassRate

KNOWN_BEFORE = {
    "job_id",
    "parent_entropy",
    "parent_accuracy",
    "base_accuracy",
    "parent_version",
    "places",
}
"""Fields of a job's specification that are no options: what was known before the job."""
PLACES = {"parent_adapter", "towards_adapter", "model_path", "gateway_url", "output_dir", "reference_answers"}
"""Fields of a job's specification that only say where something is on the daemon's machine."""


@dataclass(frozen=True)
class VersionFacts:
    """A version with what its job and the daemon found out about it."""

    info: VersionInfo
    is_served: bool
    gates: list[GateResult]
    """Empty for the base, and if the job's record is gone or the version was not judged yet."""
    has_job: bool
    """Whether the daemon has a record of the job that made the version."""
    parent_exists: bool
    entropy: EntropyEstimate | None
    """Entropy on the probes, in nats per token."""
    bytes: int | None = None
    """Size of the version's files; None if it was not asked for."""

    @property
    def version(self) -> int:
        return self.info.version

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def lineage(self) -> Lineage | None:
        return self.info.lineage

    @property
    def kind(self) -> str:
        """How the version came about."""
        if self.lineage is None:
            return "base model" if not self.version else "files gone or damaged"
        remedy = f", {self.lineage.remedy}" if self.lineage.remedy else ""
        return self.lineage.kind + remedy

    @property
    def accuracy(self) -> Accuracy | None:
        return self.lineage and self.lineage.accuracy_after

    @property
    def pass_rate(self) -> PassRate | None:
        """pass@k at the largest k that was measured; None if that is 1, which is the accuracy."""
        best = self.accuracy.pass_at[-1] if self.accuracy and self.accuracy.pass_at else None
        return best if best is not None and best.k > 1 else None

    @property
    def missed(self) -> list[GateResult]:
        """The gates that the version did not pass."""
        return [gate for gate in self.gates if gate.outcome != "passed"]

    @property
    def delivery(self) -> GateResult | None:
        """The newest proof of delivery."""
        return next((gate for gate in reversed(self.gates) if gate.name == "delivery"), None)


def facts_of(context: ApiContext, version: int) -> VersionFacts:
    """The facts of a version.

    Raises:
        NotFoundError: There is no such version.
    """
    info = context.versions.get(version)
    lineage, gates, has_job = info.lineage, list[GateResult](), False
    if lineage is not None and lineage.job_id is not None:
        with suppress(NotFoundError):  # the version came with its folder from another data folder
            gates, has_job = context.controller.job(lineage.job_id).gates, True
    entropy = lineage and lineage.entropy_after
    if not version:
        windows = context.series.last(1, 0)
        entropy = windows[0].estimate if windows else None
    return VersionFacts(
        info=info,
        is_served=version == context.versions.promoted(),
        gates=gates,
        has_job=has_job,
        parent_exists=lineage is not None and exists(context.versions, lineage.parent),
        entropy=entropy,
    )


def exists(versions: AdapterStore, version: int) -> bool:
    """Whether a version exists, without a look at its files."""
    return version in versions.versions()


async def infos(versions: AdapterStore, numbers: Iterable[int]) -> AsyncIterator[VersionInfo]:
    """These versions, but for those that were deleted meanwhile. Other tasks have their turn in between."""
    for number in numbers:
        with suppress(NotFoundError):
            yield versions.get(number)
        await asyncio.sleep(0)


def options_of(lineage: Lineage | None) -> dict[str, str]:
    """The options of the job that made a version, by their names, e.g. `lora.rank`."""
    spec = lineage.spec if lineage is not None else {}
    return dict(_flat({name: value for name, value in spec.items() if name not in KNOWN_BEFORE | PLACES}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
