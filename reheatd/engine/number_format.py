"""Chooses the number format in which a policy is computed.

A CPU without instructions for bfloat16 products emulates them. On such a CPU float32 is faster, although it reads twice
as many bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reheatd.options import NumberFormat

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_PRODUCTS = {
    "avx512_bf16": "AVX-512-BF16",
    "amx_bf16": "AMX",
    "bf16": "Arm's bfloat16 instructions",
}
"""Flags of processors that multiply bfloat16 natively, each with the name of the instructions."""


@dataclass(frozen=True)
class Choice:
    """A number format, and why it was chosen."""

    name: NumberFormat
    """The format; `auto` leaves the choice to vLLM."""
    reason: str


def engine_format(wanted: NumberFormat, device: Literal["cpu", "cuda"]) -> Choice:
    """The format of an engine that the daemon starts, whose `engine.dtype` is `wanted`."""
    if wanted != "auto":
        return Choice(wanted, f'engine.dtype is "{wanted}"')
    if device == "cuda":
        return Choice("auto", "vLLM chooses what the GPU has, bfloat16 as a rule")
    return cpu_format()


def cpu_format() -> Choice:
    """The faster format on this machine, for engine and trainer alike."""
    instructions = bfloat16_instructions()
    if instructions is not None:
        return Choice("bfloat16", f"this processor multiplies bfloat16 with {instructions}")
    return Choice("float32", "this processor cannot multiply bfloat16 (no AVX-512-BF16, no AMX), only emulate it")


def bfloat16_instructions() -> str | None:
    """The instructions with which this processor multiplies bfloat16; None if it has none, or if that is not known."""
    if not CPUINFO.is_file():
        return None
    for line in CPUINFO.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found = BFLOAT16_PRODUCTS.keys() & set(flags.split())
            return BFLOAT16_PRODUCTS[min(found)] if found else None
    return None
