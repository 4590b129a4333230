"""An adapter's files on the way to the daemon and back."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from reheatd.adapters.archive import pack, unpack
from reheatd.errors import ConflictError, NotFoundError
from reheatd.files import publish_folder

CHUNK = 1 << 20
MOST_BYTES = 1 << 40
"""Limit of what is unpacked of an export, which the user's own daemon sent, in bytes."""


def adapter_stream(path: Path) -> Iterator[bytes]:
    """The tar stream of an adapter's folder or of an archive; of a folder, only what belongs to the adapter.

    Raises:
        NotFoundError: There is no such file or folder.
        AdapterInvalidError: The folder has no adapter, or several.
    """
    if path.is_dir():
        from reheatd.adapters.importing import find_adapter  # imported here, because it loads numpy

        folder = find_adapter(path)
        return pack({file.name: file for file in sorted(folder.glob("adapter_*")) if file.is_file()})
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; name a PEFT adapter's folder or its archive", param="path")
    return _pieces(path)


def printable_name(path: Path) -> str:
    """A file's name as one short printable line, which is what the daemon keeps of it."""
    name = path.resolve().name
    return "".join(character if character.isprintable() else "?" for character in name)[:200]


def check_new(folder: Path) -> None:
    """Checks that an export would replace nothing.

    Raises:
        ConflictError: There is something at `folder`.
    """
    if folder.exists():
        raise ConflictError(f"{folder} exists already; name a new folder", param="folder")


def write_version(stream: IO[bytes], folder: Path) -> None:
    """Unpacks the files of a version from the beginning of a tar stream into a new folder.

    Raises:
        ArchiveInvalidError: The stream is damaged, or the folder cannot be written.
    """
    stream.seek(0)
    with publish_folder(folder.resolve()) as scratch:
        unpack(cast(BinaryIO, stream), scratch, max_bytes=MOST_BYTES)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as handle:
        while piece := handle.read(CHUNK):
            yield piece
