"""An adapter of another trainer through a real daemon: imported, proved, served, and taken along again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.integration.test_serve import running
from tests.random_adapter import random_adapter


def as_verl_writes_it(folder: Path, model: Path) -> Path:
    """A random adapter with the names of FSDP and of PEFT's adapters in memory, and with rsLoRA's scale."""
    adapter = random_adapter(folder, model, rank=4)
    file = adapter / "adapter_model.safetensors"
    save_file(
        {
            name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): tensor
            for name, tensor in load_file(file).items()
        },
        file,
    )
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True, "lora_alpha": 2}))
    return adapter


def test_an_imported_adapter_is_proved_served_and_exported_with_the_same_update(
    tiny_policy: Path, tmp_path: Path
) -> None:
    sent = as_verl_writes_it(tmp_path / "trained", tiny_policy)
    task = "[task]\neval_count = 4\neval_samples = 1\neval_max_tokens = 8\n[workers]\nreport_rollouts = 4\n"
    with running(tmp_path, tiny_policy, task) as daemon:
        job = daemon.reheatd("adapters", "import", str(sent), "--wait")
        assert (job["status"], job["version"]) == ("succeeded", 1)
        lineage = daemon.reheatd("adapters", "show", "1")["lineage"]
        assert (lineage["kind"], lineage["spec"]["source"]) == ("imported", "trained")
        assert lineage["entropy_after"]["mean"] > 0 and lineage["accuracy_after"]["problems"] == 4
        assert daemon.answer().headers["x-reheatd-version"] == "policy-v0"

        promoted = daemon.reheatd("adapters", "promote", "1")
        assert promoted["version"] == 1 and promoted["proof"]["tokens"] > 0
        assert daemon.answer().headers["x-reheatd-version"] == "policy-v1"

        refused = subprocess.run(
            [sys.executable, "-m", "cli.main", "adapters", "import", str(tiny_policy), "--url", daemon.url],
            capture_output=True,
            text=True,
        )
        assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
        daemon.reheatd("adapters", "export", "1", str(tmp_path / "out"))

    out = tmp_path / "out"
    taken, given = (load_file(folder / "adapter_model.safetensors") for folder in (out, sent))
    config = json.loads((out / "adapter_config.json").read_text())
    for name in (each for each in taken if each.endswith(".lora_A.weight")):
        after = [taken[name.replace(".lora_A.", ".lora_B.")], taken[name]]
        before = [given[name.replace(".lora_A.weight", f".lora_{side}.default.weight")] for side in "BA"]
        scale = config["lora_alpha"] / config["r"]
        np.testing.assert_allclose(scale * after[0] @ after[1], 2 / 4**0.5 * before[0] @ before[1], atol=1e-6)
