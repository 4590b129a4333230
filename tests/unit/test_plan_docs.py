"""The table of docs/plan.md is what the arithmetic gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reheatd.errors import BadInputError
from reheatd.plan.fit import Machine, fit, longest_answers, step_time
from reheatd.plan.placement import place
from reheatd.plan.speed import card_of
from tests.unit.test_plan_fit import GIB, SIZES, demand
from tests.unit.test_plan_shape import PUBLISHED

WIDE = {"COLUMNS": "200"}
DOCS = Path(__file__).parents[2] / "docs/plan.md"


def test_the_example_of_the_docs_is_what_the_command_prints(tmp_path: Path) -> None:
    shape = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 40960, **PUBLISHED[SIZES["4B"]]}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    text = DOCS.read_text().split("```")[1].strip()
    command, _, printed = text.partition("\n")
    arguments = [str(tmp_path) if word == "Qwen/Qwen3-4B" else word for word in command.split()[2:]]
    argv = [sys.executable, "-m", "cli.main", *arguments]
    done = subprocess.run(argv, cwd=Path.cwd(), capture_output=True, text=True, check=True, env=os.environ | WIDE)
    said = [line.rstrip() for line in done.stdout.replace(str(tmp_path), "Qwen/Qwen3-4B").splitlines()]
    assert said == printed.splitlines()


def row(size: str, memory_gib: int, gpus: int) -> str:
    wanted, machine = demand(size), Machine("cuda", memory_gib * GIB, 2)
    placement = place([str(index) for index in range(gpus)], replicas=1, workers=1, heads=wanted.shape.heads)
    name = f"| {size} | {gpus} x {memory_gib}"
    try:
        found = fit(wanted, machine, placement)
    except BadInputError as error:
        way_out = "needs a second GPU" if error.param == "gpus" else "needs larger GPUs"
        return f"{name} | {way_out} | | | | | |"
    step = step_time(wanted, machine, placement, found, card_of(memory_gib).speed)
    return (
        f"{name} | {found.utilization}, {found.engine.total / GIB:.1f} | {found.kv_tokens:,} | "
        f"{found.worker.total / GIB:.1f} | {'yes' if found.checkpointed else 'no'} | "
        f"{step.sampling:.0f}, {step.training:.0f} | {longest_answers(wanted, machine, placement):,} |"
    )


def test_the_table_of_the_docs_is_what_is_computed() -> None:
    computed = [row(size, memory, gpus) for size in SIZES for memory in (24, 48, 80) for gpus in (1, 2)]
    documented = [
        line for line in DOCS.read_text().splitlines() if line.startswith(tuple(f"| {size} |" for size in SIZES))
    ]
    assert documented == computed


def test_a_length_that_is_assumed_is_said_and_not_recommended(tmp_path: Path) -> None:
    shape = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 40960, **PUBLISHED[SIZES["4B"]]}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    argv = [sys.executable, "-m", "cli.main", "plan", "--model", str(tmp_path), "--gpus", "1", "--gpu-memory", "48"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env=os.environ | WIDE).stdout
    assert "512 + 4096 tokens per step" in said and "4096 tokens are assumed: max_tokens is auto" in said
    assert "max_model_len = 4608" in said and "max_tokens =" not in said
