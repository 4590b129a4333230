"""Which versions may be deleted, and the deletion of those that nobody needs when the disk's limit asks for it."""

import logging

from reheatd.control.dependencies import Dependencies
from reheatd.errors import ConflictError, ReheatdError
from reheatd.names import model_name, version_name

logger = logging.getLogger(__name__)


class DiskLimitError(ReheatdError):
    """A new version does not fit into `adapters.max_disk_bytes`.

    What to do: Delete versions (`reheatd adapters prune --keep 5`), or raise adapters.max_disk_bytes.
    """

    code = "disk_limit"
    status = 507
    exit_code = 2


class Retention:
    """Deletes versions. It never deletes one that serves, that a rollback would serve, or that is in use."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._versions = dependencies.versions
        self._swaps = dependencies.swaps
        self._slots = dependencies.slots
        self._ledger = dependencies.ledger
        self._settings = dependencies.settings.adapters

    async def delete(self, version: int) -> None:
        """Deletes one version at a user's request.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: The version is promoted, staged or the base, a job or requests use it.
            EngineError: The engine cannot be reached.
        """
        if version and version in self._used_by_job():
            raise ConflictError(f"{version_name(version)} is in use by a running job; delete it later", param="version")
        await self._swaps.delete(version)

    async def prune(self, keep: int) -> list[int]:
        """Deletes all but the newest `keep` versions, oldest first, and returns those that it deleted.

        Versions that are never deleted count among those that are kept, where they are new enough.
        """
        newest = set(self._versions.versions()[-keep:]) if keep else set()
        return [version for version in self._prunable() if version not in newest and await self._deleted(version)]

    async def make_room(self, wanted: int) -> None:
        """Deletes the oldest versions until a new one of `wanted` bytes fits into the limit, if there is one.

        Raises:
            DiskLimitError: All that may be deleted is not enough; in this case, nothing is.
        """
        limit = self._settings.max_disk_bytes
        if limit is None:
            return
        sizes = {version: self._versions.disk_bytes(version) for version in self._versions.versions()}
        excess = sum(sizes.values()) + wanted - limit
        prunable = self._prunable()
        if excess > sum(sizes.get(version, 0) for version in prunable):
            raise DiskLimitError(
                f"a version of {wanted} bytes does not fit: adapters.max_disk_bytes is {limit}, and the versions "
                f"that are in use leave too little of it; raise it, or promote and unpin to free some"
            )
        for version in prunable:
            if excess <= 0:
                return
            if await self._deleted(version):
                excess -= sizes.get(version, 0)
                logger.warning(
                    "%s was deleted: a new version would exceed adapters.max_disk_bytes = %d",
                    version_name(version),
                    limit,
                )
        if excess > 0:
            raise DiskLimitError(f"versions came into use, and {excess} bytes are missing; try again")

    def _prunable(self) -> list[int]:
        kept = {0, self._swaps.promoted, self._versions.previous(), *self._used_by_job()}
        return [
            version
            for version in self._versions.versions()
            if version not in kept and not self._slots.is_loaded(model_name(version))
        ]

    def _used_by_job(self) -> set[int | None]:
        record = self._ledger.jobs.active()
        return set() if record is None else {record.job.parent_version, record.job.version}

    async def _deleted(self, version: int) -> bool:
        try:
            await self._swaps.delete(version)
        except ConflictError as error:
            # It was staged, or a request for it came in, since it was looked at.
            logger.warning("%s is kept: %s", version_name(version), error)
            return False
        return True
