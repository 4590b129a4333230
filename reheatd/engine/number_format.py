"""The number format that a policy is computed in.

A CPU without instructions for bfloat16 products emulates them. float32 is faster there, although it reads twice the
bytes.
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
"""Flag of a processor that multiplies bfloat16 itself, and the name of what it does it with."""


@dataclass(frozen=True)
class Choice:
    name: NumberFormat
    """`auto` leaves it to vLLM."""
    reason: str


def engine_format(wanted: NumberFormat, device: Literal["cpu", "cuda"]) -> Choice:
    """The format of an engine of our own whose `engine.dtype` is `wanted`."""
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
    """What this processor multiplies bfloat16 with; None where it does not, or where nobody says."""
    if not CPUINFO.is_file():
        return None
    for line in CPUINFO.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found = BFLOAT16_PRODUCTS.keys() & set(flags.split())
            return BFLOAT16_PRODUCTS[min(found)] if found else None
    return None
