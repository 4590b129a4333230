"""Adapters as tar streams: packs files, and unpacks a stream that nobody vouches for.

Only Python's reading of headers is used. Its `tarfile` takes a damaged header in the middle, or the end of the stream,
for the end of the archive, and reads an extended header of any size into memory.
"""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from reheatd.errors import ArchiveInvalidError
from reheatd.files import is_of_disk

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
MAX_MEMBERS = 100
"""Entries that an archive may have; an adapter is a handful of files."""
MAX_DEPTH = 8
MAX_HEADER_BYTES = 1 << 16
"""Longest extended header, in bytes; one holds a name and a few numbers."""
MAX_HEADERS = 4
"""Extended headers that one entry may have; a stream of nothing else would never end."""
MAX_TRAILING_BYTES = 1 << 20
"""Largest padding after the end of the archive, in bytes."""


def pack(files: Mapping[str, Path | bytes]) -> Iterator[bytes]:
    """The bytes of a tar stream with `files`, by their names in the archive; a file is read as the stream is.

    Raises:
        ArchiveInvalidError: A file cannot be read, or becomes shorter meanwhile.
    """
    for name, content in files.items():
        info = tarfile.TarInfo(name)
        try:
            info.size = len(content) if isinstance(content, bytes) else content.stat().st_size
            yield info.tobuf()
            if isinstance(content, bytes):
                yield content
            else:
                yield from _content(content, info.size)
        except OSError as error:
            raise ArchiveInvalidError(f"{content!s} cannot be read: {error.strerror or error}") from error
        yield bytes(-info.size % BLOCK)
    yield bytes(2 * BLOCK)


def unpack(stream: BinaryIO, folder: Path, *, max_bytes: int, max_members: int = MAX_MEMBERS) -> None:
    """Unpacks a tar stream, plain or gzip, into `folder`; after an error, there is no `folder`.

    Only plain files and their folders are accepted. The limits hold while the stream is read, so an archive that
    unpacks to more than it says, or than anybody wants, is stopped on the way.

    Args:
        max_bytes: Largest size of all files together.

    Raises:
        ArchiveInvalidError: The stream is damaged, cut off or too large; an entry leaves the folder, comes twice, or is
            no plain file; or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _unpack(_Reader(stream), folder, max_bytes, max_members)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and not is_of_disk(error):
            raise ArchiveInvalidError(f"the archive cannot be unpacked: {error.strerror or error}") from error
        raise


def _content(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as handle:
        left = size
        while left:
            block = handle.read(min(CHUNK, left))
            if not block:
                raise ArchiveInvalidError(f"{file} became shorter while it was read; try again when nobody writes it")
            left -= len(block)
            yield block


class _Reader:
    """Reads exactly as many bytes as asked for, from a stream that may be compressed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._ahead = stream.read(len(GZIP_MAGIC))
        self._stream = stream
        if self._ahead == GZIP_MAGIC:
            self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=cast(BinaryIO, _Prefixed(self._ahead, stream))))
            self._ahead = b""

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ArchiveInvalidError: The stream ends before, or its compression is damaged.
        """
        data = self.upto(size)
        if len(data) < size:
            raise ArchiveInvalidError("the archive is cut off; send it again")
        return data

    def upto(self, size: int) -> bytes:
        """The next `size` bytes, or what there is until the stream ends."""
        parts = [self._ahead[:size]]
        self._ahead = self._ahead[size:]
        left = size - len(parts[0])
        try:
            while left and (part := self._stream.read(left)):
                parts.append(part)
                left -= len(part)
        except EOFError as error:
            raise ArchiveInvalidError("the archive is cut off; send it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ArchiveInvalidError(f"the archive's compression is damaged ({error}); send it again") from error
        return b"".join(parts)


class _Prefixed:
    """A stream of which the first bytes were read already."""

    def __init__(self, first: bytes, rest: BinaryIO) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int) -> bytes:
        first, self._first = self._first[:size], self._first[size:]
        return first or self._rest.read(size)


def _unpack(reader: _Reader, folder: Path, max_bytes: int, max_members: int) -> None:
    total = 0
    for count, (name, member) in enumerate(_members(reader), start=1):
        if count > max_members:
            raise ArchiveInvalidError(f"the archive has more than {max_members} entries; send only the adapter's files")
        total += member.size
        if total > max_bytes:
            raise ArchiveInvalidError(
                f"the archive unpacks to more than {max_bytes} bytes; send only the adapter's files, or raise "
                "adapters.max_import_bytes"
            )
        path = folder.joinpath(*_parts(name))
        try:
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                left = member.size
                while left:
                    file.write(reader.exactly(min(CHUNK, left)))
                    left -= min(CHUNK, left)
        except (FileExistsError, NotADirectoryError) as error:
            raise ArchiveInvalidError(f"the archive has {name!r} twice; pack it again") from error
        reader.exactly(-member.size % BLOCK)
    if len(reader.upto(MAX_TRAILING_BYTES + 1)) > MAX_TRAILING_BYTES:
        raise ArchiveInvalidError("the stream goes on after the archive's end; send one archive alone")


def _members(reader: _Reader) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The archive's files and folders with their names; the content of each must be read before the next is taken."""
    long_name, headers = None, 0
    while (block := reader.exactly(BLOCK)) != bytes(BLOCK):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ArchiveInvalidError(f"the stream is no tar archive, or damaged ({error}); pack it again") from error
        if member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            long_name, headers = _extended_name(reader, member) or long_name, headers + 1
            if headers > MAX_HEADERS:
                raise ArchiveInvalidError(f"an entry of the archive has more than {MAX_HEADERS} headers; pack it again")
            continue
        name, long_name, headers = long_name or member.name, None, 0
        if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)):
            raise ArchiveInvalidError(f"{name!r} in the archive is neither a plain file nor a folder; leave it out")
        if member.size < 0 or (member.isdir() and member.size):
            raise ArchiveInvalidError(f"{name!r} in the archive has size {member.size}; pack it again")
        yield name, member


def _extended_name(reader: _Reader, member: tarfile.TarInfo) -> str | None:
    """The name that an extended header gives the next entry; None if it gives none."""
    if not 0 <= member.size <= MAX_HEADER_BYTES:
        raise ArchiveInvalidError(f"the archive has a header of {member.size} bytes; pack it again")
    content = reader.exactly(member.size + -member.size % BLOCK)[: member.size]
    if member.type == tarfile.GNUTYPE_LONGNAME:
        return content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    fields = dict(_pax_records(content))
    if any(key == "size" or key.startswith("GNU.sparse.") for key in fields):
        raise ArchiveInvalidError("the archive has a sparse or very large file; pack it in plain tar format")
    return fields.get("path")


def _pax_records(content: bytes) -> Iterator[tuple[str, str]]:
    """The records of a pax header, each as its key and value."""
    while content:
        length, _, rest = content.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 7 else 0
        key, equals, value = rest[: max(0, size - len(length) - 1)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ArchiveInvalidError("the archive has a damaged extended header; pack it again")
        yield key.decode("utf-8", "surrogateescape"), value[:-1].decode("utf-8", "surrogateescape")
        content = content[size:]


def _parts(name: str) -> tuple[str, ...]:
    """The path of an entry inside the folder.

    Raises:
        ArchiveInvalidError: The path leaves the folder, or is none.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ArchiveInvalidError(f"{name!r} in the archive leaves its folder; pack the files with relative names")
    if not name.isprintable() or len(path.parts) > MAX_DEPTH or any(len(part) > 200 for part in path.parts):
        raise ArchiveInvalidError(f"{name[:80]!r} in the archive is no usable file name; rename the file")
    return path.parts
