"""Folders that appear complete or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reheatd.files import only_process_in, publish_folder, write_atomically


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_appears_when_it_is_complete_and_everybody_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    previous = os.umask(0o077)
    try:
        with publish_folder(folder) as scratch:
            (scratch / "inner").mkdir()
            (scratch / "inner" / "file").write_text("content")
            assert not folder.exists()
    finally:
        os.umask(previous)
    assert (folder / "inner" / "file").read_text() == "content"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, folder / "inner", folder / "inner" / "file")}
    assert modes == {"folder": 0o755, "inner": 0o755, "file": 0o644}
    assert names(folder.parent) == {"folder"}


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with publish_folder(folder) as scratch:
        (scratch / "first").touch()
    with pytest.raises(OSError, match="No space"), publish_folder(folder) as scratch:
        (scratch / "second").touch()
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == {"folder"}
    assert names(folder) == {"first"}


def test_an_existing_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("first", "second"):
        with publish_folder(folder) as scratch:
            (scratch / name).touch()
    assert names(folder) == {"second"}


KILLED = """
import os, sys
from pathlib import Path
from reheatd.files import publish_folder
with publish_folder(Path(sys.argv[1])) as scratch:
    (scratch / "half").touch()
    os._exit(9)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)]).returncode == 9
    assert not folder.exists()
    assert names(tmp_path)
    with publish_folder(folder) as scratch:
        (scratch / "whole").touch()
    assert names(tmp_path) == {"folder"}
    assert names(folder) == {"whole"}


WAITING = """
import sys
from pathlib import Path
from reheatd.files import only_process_in
print("asks", flush=True)
with only_process_in(Path(sys.argv[1])):
    print((Path(sys.argv[1]) / "written").exists(), flush=True)
"""


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    with only_process_in(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "asks\n"
        (tmp_path / "written").touch()
    assert other.communicate()[0] == "True\n"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    write_atomically(file, b"first")
    write_atomically(file, b"second")
    assert file.read_bytes() == b"second"
    assert names(tmp_path) == {"file.json"}
