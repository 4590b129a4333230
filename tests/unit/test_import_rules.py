"""Which package may import which: the rules stand in pyproject.toml, and each of them notices when it is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

SIDES = "Imports run cli -> reheatd <- workers"
FLOORS = "Inside reheatd imports run downwards"
TORCH = "Only workers, tap and engine plug-ins import torch"
VLLM = "Only engine and tap import vLLM"
DAEMON = "Daemon, client and commands load no torch and no vLLM"
CIRCLES = "No circles"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_code_keeps_the_import_rules() -> None:
    done = check(CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("reheatd/jobs/store.py", "import workers.losses", SIDES),
        ("reheatd/errors.py", "import cli.render", SIDES),
        ("workers/report.py", "from cli import render", SIDES),
        ("cli/reheat.py", "from workers import losses", SIDES),
        ("reheatd/measures.py", "from reheatd.jobs.contracts import Job", FLOORS),
        ("reheatd/process/ports.py", "import reheatd.engine.launch", FLOORS),
        ("reheatd/engine/pool.py", "def load():\n    from reheatd.adapters import store", FLOORS),
        ("reheatd/entropy/plan.py", "from reheatd.adapters import lineage", FLOORS),
        ("reheatd/gateway/limits.py", "from reheatd.control import gates", FLOORS),
        ("reheatd/attic.py", '"""A part without a floor."""', FLOORS),
        ("reheatd/adapters/tensors.py", "import torch", TORCH),
        ("reheatd/engine/launch.py", "def look():\n    import torch.cuda", TORCH),
        ("cli/doctor.py", "import transformers", TORCH),
        ("workers/policy.py", "import vllm", VLLM),
        ("reheatd/process/supervisor.py", "from vllm.platforms import current_platform", VLLM),
        ("reheatd/entropy/live.py", "from reheatd.tap import row_entropy", DAEMON),
        ("cli/engine.py", "import reheatd.engine.cpu_worker", DAEMON),
        ("reheatd/client/requests.py", "import reheatd.tap.row_entropy", DAEMON),
        ("reheatd/api/schemas.py", "import reheatd.client", FLOORS),
        ("reheatd/jobs/keys.py", "import reheatd.jobs.dispatch", CIRCLES),
        ("workers/lora.py", "def later():\n    import workers.policy", CIRCLES),
    ],
)
def test_a_line_that_breaks_a_rule_is_found(tmp_path: Path, file: str, line: str, rule: str) -> None:
    for package in ("reheatd", "workers", "cli"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(f"\n{line}\n")
    done = check(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{rule} BROKEN" in done.stdout
