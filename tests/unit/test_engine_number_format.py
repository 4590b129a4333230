"""Which number format a processor is fast in."""

from pathlib import Path

import pytest
import torch

from reheatd.engine import number_format
from reheatd.engine.number_format import bfloat16_instructions, engine_format
from workers.policy import choose_dtype

AVX2 = "flags\t\t: fpu sse2 avx avx2 fma f16c\n"
PROCESSORS = {
    AVX2: None,
    "flags\t\t: fpu avx2 avx512f avx512_vnni\n": None,
    "flags\t\t: fpu avx2 avx512f avx512_bf16\n": "AVX-512-BF16",
    "flags\t\t: fpu avx512f amx_bf16 amx_tile\n": "AMX",
    "Features\t: fp asimd i8mm bf16\n": "Arm's bfloat16 instructions",
    "Features\t: fp asimd\n": None,
}


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(number_format, "CPUINFO", file)
    return file


@pytest.mark.parametrize(("flags", "instructions"), PROCESSORS.items())
def test_engine_and_trainer_use_bfloat16_where_the_processor_multiplies_it(
    flags: str, instructions: str | None, cpuinfo: Path
) -> None:
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: of bf16 fame\n{flags}bugs\t\t: none\n\nprocessor\t: 1\n")
    assert bfloat16_instructions() == instructions
    expected = "float32" if instructions is None else "bfloat16"
    found = engine_format("auto", "cpu")
    assert found.name == expected
    assert (instructions or "emulate") in found.reason
    assert choose_dtype("auto", torch.device("cpu")) == getattr(torch, expected)


def test_a_machine_that_does_not_say_gets_float32(cpuinfo: Path) -> None:
    assert engine_format("auto", "cpu").name == "float32"


def test_what_is_asked_for_wins_and_a_gpu_is_left_to_vllm(cpuinfo: Path) -> None:
    cpuinfo.write_text(AVX2)
    assert engine_format("bfloat16", "cpu").name == "bfloat16"
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert engine_format("auto", "cuda").name == "auto"
    assert engine_format("float32", "cuda").name == "float32"
