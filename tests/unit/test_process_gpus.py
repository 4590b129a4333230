"""Which GPUs there are to use, whole ones and the parts that MIG makes."""

from pathlib import Path

import pytest

from reheatd.engine.launch import detect_device
from reheatd.process.gpus import parse_list, selectors, visible_gpus

MIXED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-4404041a-04cf-1ccf-9e70-f139a9b1e23c)
  MIG 1g.10gb     Device  0: (UUID: MIG-f3b1cc02-4a5c-5f0b-9a1c-33a2be1d2c11)
  MIG 3g.40gb     Device  1: (UUID: MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-9fe0c3a0-8c1d-7a1b-6b0e-0f6ea94b90c2)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-6b1f6b37-55d1-a4b0-0b4f-1f5cf0bd9ac4)
"""
SMALL, LARGE = "MIG-f3b1cc02-4a5c-5f0b-9a1c-33a2be1d2c11", "MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists `MIXED`."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 2\ncat <<EOF\n{MIXED}EOF\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_gpu_that_is_cut_up_counts_as_its_parts() -> None:
    gpus = parse_list(MIXED)
    assert [gpu.name for gpu in gpus] == [
        "GPU 0: NVIDIA H100 80GB HBM3, MIG 1g.10gb Device 0",
        "GPU 0: NVIDIA H100 80GB HBM3, MIG 3g.40gb Device 1",
        "GPU 1: NVIDIA H100 80GB HBM3",
        "GPU 2: NVIDIA A100-SXM4-40GB",
    ]
    assert [gpu.selector for gpu in gpus] == [SMALL, LARGE, "1", "2"]


def test_what_is_no_gpu_is_not_counted() -> None:
    assert parse_list("") == []
    assert parse_list("Unable to determine the device handle for gpu 0000:41:00.0: Unknown Error\n") == []


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("2,1", ["2", "1"]),
        ("GPU-6b1f6b37,1", ["GPU-6b1f6b37", "1"]),
        (LARGE, [LARGE]),
        (" 1 , 2", ["1", "2"]),
        ("0", ["0"]),
        ("1,9,2", ["1"]),
    ],
)
def test_the_environment_chooses(driver: None, chosen: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert [gpu.selector for gpu in visible_gpus()] == names
    assert selectors() == names
    assert detect_device() == "cuda"


@pytest.mark.parametrize("chosen", ["", "-1", "NoDevFiles"])
def test_the_environment_may_hide_all(driver: None, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect_device() == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == []
    assert selectors() == []
    assert detect_device() == "cpu"


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == []
    assert detect_device() == "cpu"
