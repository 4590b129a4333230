"""Finds the reference's files, and checks that they can be the base that the policy was trained from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reheatd.adapters.tensors import read_beginnings, read_shapes
from reheatd.adapters.validate import base_digest
from reheatd.engine.policy_model import resolve_policy
from reheatd.errors import AdapterInvalidError, BadInputError
from reheatd.text import decode

PARAM = "policy.reference"
TIED = "lm_head.weight"
"""Tensor that some files leave out where it equals the embeddings."""
COMPARED_VALUES = 4096
"""Values at the beginning of each tensor by which equal weights are recognised."""


@dataclass(frozen=True)
class Reference:
    """The base that the policy was trained from."""

    path: Path
    """Folder of its files."""
    digest: str
    """`base_digest` of that folder."""


def resolve_reference(reference: str, policy: Path, *, report: Callable[[str], None] = lambda doing: None) -> Reference:
    """Finds the files of the model that `policy.reference` names; converts or downloads them if needed.

    Args:
        policy: Folder of the policy's files.
        report: Called with what is being done, if that takes a while.

    Raises:
        BadInputError: The reference is no model, or not the base of the policy; see `check_reference`.
        MissingExtraError: A package that the built-in model or the download needs is not installed.
    """
    folder = resolve_policy(reference, PARAM, report=report)
    check_reference(folder, policy)
    return Reference(folder, base_digest(folder))


def check_reference(reference: Path, policy: Path) -> None:
    """Checks that a policy can have been trained from a reference, by the files of both.

    They need the same type of model, and the same tensors with the same shapes. Every token of the reference needs the
    same id in the policy, which may have further tokens; tokenizers without `tokenizer.json` are not compared. The
    weights must differ.

    Raises:
        BadInputError: Something does not fit; the message names `policy.reference`.
    """
    types = [_read_json(folder / "config.json").get("model_type") for folder in (reference, policy)]
    if types[0] != types[1]:
        raise _not_the_base(reference, policy, f"model_type is {types[0]} there and {types[1]} here")
    try:
        _check_shapes(reference, policy)
        same = _same_weights(reference, policy)
    except AdapterInvalidError as error:
        raise BadInputError(f"{PARAM} cannot be compared with the policy: {error.message}", param=PARAM) from error
    _check_tokens(reference, policy)
    if same:
        raise BadInputError(
            f"{PARAM} = {reference} has the same weights as policy.model = {policy}; name the base that the policy was "
            f"trained from, or leave {PARAM} out if it was not trained",
            param=PARAM,
        )


def _check_shapes(reference: Path, policy: Path) -> None:
    expected, found = _shapes(reference), _shapes(policy)
    for name in sorted((expected.keys() | found.keys()) - {TIED}):
        if expected.get(name) != found.get(name):
            difference = f"tensor {name} is {_shape(expected.get(name))} there and {_shape(found.get(name))} here"
            raise _not_the_base(reference, policy, difference)


def _check_tokens(reference: Path, policy: Path) -> None:
    files = [folder / "tokenizer.json" for folder in (reference, policy)]
    if not all(file.is_file() for file in files):
        return
    expected, found = (_token_ids(_read_json(file)) for file in files)
    for token, number in expected.items():
        if found.get(token) != number:
            difference = f"token {token!r} has the id {number} there and {found.get(token, 'none')} here"
            raise _not_the_base(reference, policy, difference)


def _same_weights(reference: Path, policy: Path) -> bool:
    there, here = _beginnings(reference), _beginnings(policy)
    return all(np.array_equal(there[name], here[name]) for name in there.keys() & here.keys())


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: shape for file in _weight_files(folder) for name, shape in read_shapes(file).items()}


def _beginnings(folder: Path) -> dict[str, NDArray[Any]]:
    return {
        name: values
        for file in _weight_files(folder)
        for name, values in read_beginnings(file, COMPARED_VALUES).items()
    }


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"{list(shape)}"


def _token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    """The ids of all tokens of a `tokenizer.json`: those of its model, and those that were added to it."""
    entries = tokenizer.get("model", {}).get("vocab", {})
    # A Unigram model lists its tokens in the order of their ids, each with a score.
    ids = dict(entries) if isinstance(entries, dict) else {entry[0]: number for number, entry in enumerate(entries)}
    return ids | {added["content"]: added["id"] for added in tokenizer.get("added_tokens", [])}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(decode(file.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{PARAM} cannot be compared with the policy: {file}: {error}", param=PARAM) from error
    if not isinstance(content, dict):
        raise BadInputError(f"{PARAM} cannot be compared with the policy: {file} is no JSON object", param=PARAM)
    return content


def _not_the_base(reference: Path, policy: Path, difference: str) -> BadInputError:
    return BadInputError(
        f"{PARAM} = {reference} is not the base of policy.model = {policy}: {difference}; name the model that the "
        "policy was trained from",
        param=PARAM,
    )
