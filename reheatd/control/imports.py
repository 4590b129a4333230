"""Takes in adapters that other trainers made: from a tar stream to a queued job."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from reheatd.adapters.archive import unpack
from reheatd.adapters.importing import Origin, find_adapter, normalise_adapter
from reheatd.config import Settings
from reheatd.control.controller import Controller
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.import_runner import remove_import
from reheatd.control.ledger import new_job_id
from reheatd.control.specs import import_folder
from reheatd.database import disk_explained
from reheatd.errors import ArchiveInvalidError
from reheatd.files import folder_bytes
from reheatd.jobs.contracts import ImportRequest, Job

logger = logging.getLogger(__name__)

WRITE_BYTES = 1 << 20
"""The stream is written in pieces of at least this many bytes, each in a thread."""


class Imports:
    """Receives adapters, and queues a job for each. What it refuses leaves nothing behind."""

    def __init__(self, settings: Settings, policy: ServedPolicy, controller: Controller) -> None:
        self._settings = settings
        self._policy = policy
        self._controller = controller

    async def receive(self, stream: AsyncIterator[bytes], *, source: str, any_base: bool) -> Job:
        """Reads an adapter's tar stream, brings it into the served form, and queues the job that measures it.

        Args:
            source: What the user calls it; the lineage keeps it.
            any_base: See `normalise_adapter`.

        Raises:
            ArchiveInvalidError: The stream is damaged, cut off, too large or no safe archive.
            AdapterInvalidError: The adapter cannot be served on this policy.
            DiskLimitError: It does not fit into `adapters.max_disk_bytes`.
            QueueFullError: `control.max_queued` jobs are waiting already.
            StateError: The disk is full or read-only.
        """
        self._controller.check_queue()
        job_id = new_job_id("import")
        scratch = self._settings.uploads_dir / job_id
        try:
            with disk_explained(self._settings.data_dir):
                upload = await self._store(stream, scratch)
                origin = await asyncio.to_thread(self._prepare, upload, job_id, any_base)
            size = folder_bytes(import_folder(self._settings, job_id))
            await self._controller.retention.make_room(size)
            return self._controller.submit(ImportRequest(source=source, trained_on=origin.base_model), job_id=job_id)
        except BaseException:
            remove_import(self._settings, job_id)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    async def _store(self, stream: AsyncIterator[bytes], scratch: Path) -> Path:
        await asyncio.to_thread(scratch.mkdir, parents=True)
        upload, limit = scratch / "upload.tar", self._settings.adapters.max_import_bytes
        size, waiting = 0, bytearray()
        with upload.open("wb") as file:
            async for part in stream:
                size += len(part)
                if size > limit:
                    raise ArchiveInvalidError(
                        f"more than {limit} bytes were sent; send only the adapter's files, or raise "
                        "adapters.max_import_bytes"
                    )
                waiting += part
                if len(waiting) >= WRITE_BYTES:
                    await asyncio.to_thread(file.write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(file.write, bytes(waiting))
        return upload

    def _prepare(self, upload: Path, job_id: str, any_base: bool) -> Origin:
        settings, policy = self._settings, self._policy
        unpacked, target = upload.parent / "adapter", import_folder(settings, job_id)
        with upload.open("rb") as stream:
            unpack(stream, unpacked, max_bytes=settings.adapters.max_import_bytes)
        origin = normalise_adapter(
            find_adapter(unpacked),
            target,
            policy.path,
            base_name=policy.name,
            policy_digest=policy.digest,
            max_rank=settings.engine.max_lora_rank,
            any_base=any_base,
        )
        self._controller.validate(target)
        return origin
