"""What cannot be the base that a policy was trained from is refused before any engine is started."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reheatd.errors import BadInputError
from reheatd.reference.files import check_reference, resolve_reference

WEIGHTS = "model.safetensors"


@pytest.fixture
def trained(tmp_path: Path, tiny_policy: Path) -> Path:
    """A full checkpoint, as RL on `tiny_policy` may leave it."""
    folder = tmp_path / "trained"
    shutil.copytree(tiny_policy, folder)
    change_tensors(folder, lambda tensors: tensors["model.norm.weight"].mul_(3))
    return folder


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_the_base_of_a_checkpoint_is_found_with_its_digest(trained: Path, tiny_policy: Path) -> None:
    reference = resolve_reference(str(tiny_policy), trained)
    assert reference.path == tiny_policy
    assert reference.digest != resolve_reference(str(trained), tiny_policy).digest


def test_a_checkpoint_may_have_further_tokens_and_leave_out_a_tied_head(trained: Path, tiny_policy: Path) -> None:
    change_json(trained / "tokenizer.json", lambda it: it["model"]["vocab"].update({"<|think|>": 300}))
    change_tensors(trained, lambda tensors: tensors.pop("lm_head.weight"))
    check_reference(tiny_policy, trained)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: change_json(it / "config.json", lambda c: c.update(model_type="llama")), "model_type is llama"),
        (lambda it: change_tensors(it, lambda t: t.pop("model.norm.weight")), "model.norm.weight is missing there"),
        (
            lambda it: change_tensors(it, lambda t: t.update({"model.norm.weight": torch.ones(8)})),
            r"model.norm.weight is \[8\] there and \[64\] here",
        ),
        (
            lambda it: change_json(it / "tokenizer.json", lambda c: c["model"]["vocab"].update(A=7, B=8)),
            "has the id 7 there",
        ),
        (
            lambda it: change_json(it / "tokenizer.json", lambda c: c["model"]["vocab"].update({"<|new|>": 300})),
            "id 300 there and none here",
        ),
        (lambda it: (it / WEIGHTS).write_bytes(b"cut off"), "cannot be compared"),
        (lambda it: (it / "config.json").write_text("["), "config.json cannot be read \\(Expecting"),
    ],
)
def test_another_model_is_not_the_base(
    change: Callable[[Path], object], says: str, trained: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_policy, other)
    change(other)
    with pytest.raises(BadInputError, match=says) as refused:
        resolve_reference(str(other), trained)
    assert "policy.reference" in refused.value.message and "\n" not in refused.value.message


def test_the_policy_itself_is_not_its_base_however_it_was_saved(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    tensors = {name: values.float() for name, values in load_file(copy / WEIGHTS).items()}
    (copy / WEIGHTS).unlink()
    for number, part in enumerate((dict(list(tensors.items())[:5]), dict(list(tensors.items())[5:]))):
        save_file(part, copy / f"model-{number}.safetensors", metadata={"format": "pt"})
    for same in (trained, copy):
        with pytest.raises(BadInputError, match=r"policy\.reference = .* has the same weights"):
            resolve_reference(str(same), trained)


def test_a_reference_that_is_no_model_is_named_as_such(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(BadInputError, match=r"policy\.reference = .* has no config\.json"):
        resolve_reference(str(tmp_path), trained)
