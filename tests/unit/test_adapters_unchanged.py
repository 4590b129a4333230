"""Whether training changed an adapter."""

from pathlib import Path

import numpy as np
import pytest

from reheatd.adapters.tensors import write_tensors
from reheatd.adapters.unchanged import is_unchanged

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"


def adapter(folder: Path, a: float, b: float, **more: float) -> Path:
    folder.mkdir()
    tensors = {A: np.full((2, 4), a, np.float32), B: np.full((4, 2), b, np.float32)}
    tensors |= {name: np.full((4, 2), value, np.float32) for name, value in more.items()}
    write_tensors(folder / "adapter_model.safetensors", tensors)
    return folder


@pytest.mark.parametrize(
    ("parent", "made", "unchanged"),
    [
        ((1.0, 0.5), (1.0, 0.5), True),
        ((1.0, 0.5), (1.0, 0.5 + 1e-7), False),  # another number format, too
        ((1.0, 0.5), (0.9, 0.5), False),
        (None, (0.3, 0.0), True),
        (None, (0.3, 0.1), False),
    ],
)
def test_equal_tensors_are_no_change(
    tmp_path: Path, parent: tuple[float, float] | None, made: tuple[float, float], unchanged: bool
) -> None:
    before = None if parent is None else adapter(tmp_path / "parent", *parent)
    assert is_unchanged(adapter(tmp_path / "made", *made), before) is unchanged


def test_another_set_of_tensors_is_a_change(tmp_path: Path) -> None:
    assert not is_unchanged(adapter(tmp_path / "made", 1, 1, extra=0), adapter(tmp_path / "parent", 1, 1))
