"""Makes versions of the adapters that jobs made."""

from pathlib import Path
from typing import Any

from reheatd.adapters.lineage import Lineage
from reheatd.control.dependencies import Dependencies
from reheatd.control.retention import Retention
from reheatd.files import folder_bytes
from reheatd.jobs.store import JobRecord


async def publish(
    dependencies: Dependencies, record: JobRecord, adapter: Path, report: Path | None, lineage: dict[str, Any]
) -> int:
    """Makes a version of a valid adapter, unless it was made before a restart of the daemon, and returns its number.

    Args:
        lineage: The fields of `Lineage` that the store does not set itself.

    Raises:
        DiskLimitError: The version does not fit into `adapters.max_disk_bytes`.
    """
    job, versions = record.job, dependencies.versions
    # A crash right after publishing leaves a version that the job's record does not name yet.
    known = [
        info.version for info in versions.list() if info.lineage and _is_made_by(info.lineage, job.job_id, lineage)
    ]
    if known:
        version = known[-1]
    else:
        await Retention(dependencies).make_room(folder_bytes(adapter) + (folder_bytes(report) if report else 0))
        version = (await versions.publish(adapter, report, **lineage)).version
    job.version = version
    dependencies.ledger.save(record)
    return version


def _is_made_by(lineage: Lineage, job_id: str, fields: dict[str, Any]) -> bool:
    """Whether this is the version of a job's candidate with these fields; its candidates differ in their remedy."""
    return lineage.job_id == job_id and lineage.remedy == fields.get("remedy")
