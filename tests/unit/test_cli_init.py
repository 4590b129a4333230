"""`reheatd init` writes a file that the daemon reads, at the defaults."""

import re
import tomllib
from pathlib import Path

import pytest

from cli.init import configuration_text, init
from reheatd.config import Settings, load_settings
from reheatd.errors import BadInputError, ConflictError
from reheatd.options import Options


def test_the_file_as_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    init(path)
    assert load_settings(path).model_dump() == Settings().model_dump()


def test_every_key_taken_out_of_its_comment_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    path.write_text(re.sub(r"^# (?=[a-z_]+ = \S)", "", configuration_text(), flags=re.MULTILINE))
    assert load_settings(path).model_dump() == Settings().model_dump()
    written = tomllib.loads(path.read_text())
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            defaults = {key for key, inner in field.annotation.model_fields.items() if inner.default is not None}
            assert set(written[name]) == defaults
            assert all(inner.description for inner in field.annotation.model_fields.values()), name


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_folder_is_no_file_to_write(name: str) -> None:
    with pytest.raises(BadInputError, match="is a folder; name the file"):
        init(Path(name), force=True)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    path.write_text("# mine\n")
    with pytest.raises(ConflictError, match="--force"):
        init(path)
    assert path.read_text() == "# mine\n"
    init(path, force=True)
    assert path.read_text() != "# mine\n"
