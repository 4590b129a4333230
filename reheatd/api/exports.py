"""A version's files as an HTTP answer."""

from starlette.responses import StreamingResponse

from reheatd.adapters.archive import pack
from reheatd.adapters.exporting import export_files
from reheatd.adapters.store import AdapterStore
from reheatd.errors import ConflictError


async def tar_answer(versions: AdapterStore, version: int) -> StreamingResponse:
    """A version's files as a tar stream.

    Raises:
        NotFoundError: There is no such version.
        ConflictError: It is the base, which has no files.
        AdapterInvalidError, FilesUnreadableError: Its files are gone, were changed or cannot be read now.
    """
    if not version:
        raise ConflictError("version 0 is the base model, which has no adapter; export a later one", param="version")
    folder, lineage = await versions.intact_path(version), versions.get(version).lineage
    assert lineage is not None  # its files are intact
    return StreamingResponse(pack(export_files(folder, lineage.base_model)), media_type="application/x-tar")
