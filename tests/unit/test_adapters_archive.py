"""Tar streams that nobody vouches for: what is unpacked, what is refused, and that nothing is left behind."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reheatd.adapters.archive import pack, unpack
from reheatd.errors import ArchiveInvalidError

FILES: dict[str, Path | bytes] = {"adapter_config.json": b"{}", "folder/weights": bytes(range(256)) * 9}


def stream(*members: tarfile.TarInfo, content: bytes = b"x", format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for member in members:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def unpacked(raw: bytes, folder: Path, **limits: int) -> dict[str, bytes]:
    unpack(io.BytesIO(raw), folder, **{"max_bytes": 1 << 20, **limits})
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_is_packed_comes_out(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 3000)
    raw = b"".join(pack({**FILES, "from-disk": source}))
    assert unpacked(compress(raw), tmp_path / "out") == {**FILES, "from-disk": b"w" * 3000}
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:  # the standard library agrees that this is a tar stream
        assert tar.getnames() == [*FILES, "from-disk"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_of_other_programs(tmp_path: Path, format: int) -> None:
    name = f"./run/{'checkpoint-' * 8}1/adapter_config.json"
    members = [entry("./", tarfile.DIRTYPE), entry("./run", tarfile.DIRTYPE), entry(name)]
    members[-1].mtime = 1.5  # the pax format has this in an extended header
    assert unpacked(stream(*members, format=format), tmp_path / "out") == {name.removeprefix("./"): b"x"}
    long = "a/" + "b" * 150
    if format != tarfile.USTAR_FORMAT:
        assert unpacked(stream(entry(long), format=format), tmp_path / "long") == {long: b"x"}


def with_header(name: str = "big", **fields: str) -> bytes:
    member = entry(name)
    member.pax_headers = {key.replace("_", "."): value for key, value in fields.items()}
    return stream(member)


def headers_alone(count: int) -> bytes:
    header = entry("x", tarfile.XHDTYPE)
    return header.tobuf() * count + stream(entry("a"))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (stream(entry("/etc/passwd")), "leaves its folder"),
        (stream(entry("../../escape")), "leaves its folder"),
        (stream(entry("a/../../escape")), "leaves its folder"),
        (stream(entry("link", tarfile.SYMTYPE, "/etc/passwd")), "neither a plain file nor a folder"),
        (stream(entry("link", tarfile.LNKTYPE, "a")), "neither a plain file nor a folder"),
        (stream(entry("null", tarfile.CHRTYPE)), "neither a plain file nor a folder"),
        (stream(entry("disk", tarfile.BLKTYPE)), "neither a plain file nor a folder"),
        (stream(entry("sparse", tarfile.GNUTYPE_SPARSE)), "neither a plain file nor a folder"),
        (stream(entry("contiguous", tarfile.CONTTYPE)), "neither a plain file nor a folder"),
        (stream(entry("link", tarfile.SYMTYPE, "/tmp"), entry("link/a")), "neither a plain file nor a folder"),
        (stream(entry("pipe", tarfile.FIFOTYPE)), "neither a plain file nor a folder"),
        (stream(entry("../" * 40 + "etc/cron.d/job"), format=tarfile.GNU_FORMAT), "leaves its folder"),
        (with_header("a", path="../escape"), "leaves its folder"),
        (with_header("a", path="/etc/passwd"), "leaves its folder"),
        (stream(entry("a"), entry("a")), "twice"),
        (stream(entry("a"), entry("./a")), "twice"),
        (stream(entry("a/b"), entry("a")), "twice"),
        (stream(entry("n" * 300), format=tarfile.GNU_FORMAT), "no usable file name"),
        (stream(entry("n" * 300)), "no usable file name"),
        (with_header("a", path="nul\0l"), "no usable file name"),
        (stream(entry("a"), entry("a/b")), "twice"),
        (stream(entry("a\nb")), "no usable file name"),
        (stream(entry("/".join("abcdefghij"))), "no usable file name"),
        (stream(*(entry(f"file-{number}") for number in range(101))), "more than 100 entries"),
        (with_header(size="1"), "sparse"),
        (with_header(GNU_sparse_major="1"), "sparse"),
        (with_header(GNU_sparse_numblocks="1"), "sparse"),
        (headers_alone(5), "more than 4 headers"),
        (b"not a tar archive".ljust(1024, b"!"), "no tar archive"),
        (b"", "cut off"),
        (b"\x1f\x8bnot gzip at all", "compression is damaged"),
        (gzip.compress(stream(entry("a")))[:-9], "cut off"),
        (stream(entry("a")) + b"x" * (2 << 20), "goes on after"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",  # a gzip stream holds the time
)
def test_bad_archives_leave_nothing_behind(tmp_path: Path, raw: bytes, says: str) -> None:
    with pytest.raises(ArchiveInvalidError, match=says) as caught:
        unpacked(raw, tmp_path / "deep" / "out")
    assert "\n" not in caught.value.message
    assert [file for file in tmp_path.rglob("*") if file.name != "deep"] == []


def test_a_stream_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    raw = b"".join(pack({"zeros": bytes(2048), **FILES}))
    end = len(raw) - 1024
    for cut in [*range(0, end, 512), 100, 700, end]:
        with pytest.raises(ArchiveInvalidError, match="cut off"):
            unpacked(raw[:cut], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_damaged_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    raw = bytearray(stream(entry("a"), entry("b")))
    raw[1024 + 10] ^= 1
    with pytest.raises(ArchiveInvalidError, match="damaged"):
        unpacked(bytes(raw), tmp_path / "out")


class Endless(io.RawIOBase):
    """A gzip stream of zeros behind a header; counts what was read of it."""

    def __init__(self, head: bytes) -> None:
        self._packed = gzip.compress(head + bytes(64 << 20))
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        part = self._packed[self.taken : self.taken + size]
        self.taken += len(part)
        return part


def test_a_bomb_is_stopped_while_it_is_read(tmp_path: Path) -> None:
    """Neither a file nor an extended header of 64 MiB is unpacked, on disk or in memory."""
    huge = entry("weights")
    huge.size = 64 << 20
    header = entry("x", tarfile.XHDTYPE)
    header.size = 64 << 20
    for member, says in ((huge, "unpacks to more than"), (header, "a header of 67108864 bytes")):
        bomb = Endless(member.tobuf())
        with pytest.raises(ArchiveInvalidError, match=says):
            unpack(bomb, tmp_path / "out", max_bytes=1 << 20)  # pyright: ignore[reportArgumentType]
        assert bomb.taken < len(bomb._packed) and not (tmp_path / "out").exists()


def test_many_small_files_count_together(tmp_path: Path) -> None:
    raw = stream(*(entry(str(number)) for number in range(5)), content=bytes(300))
    assert len(unpacked(raw, tmp_path / "fits", max_bytes=1500)) == 5
    with pytest.raises(ArchiveInvalidError, match=r"more than 1499 bytes; .*adapters\.max_import_bytes"):
        unpacked(raw, tmp_path / "out", max_bytes=1499)


def test_a_file_that_shrinks_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(5000))
    packing = pack({"weights": file})
    next(packing)
    file.write_bytes(b"short")
    with pytest.raises(ArchiveInvalidError, match="became shorter"):
        list(packing)
    with pytest.raises(ArchiveInvalidError, match="gone cannot be read"):
        list(pack({"gone": tmp_path / "gone"}))
