"""The files of a version as others load them: PEFT's two files, and the lineage beside them."""

import json
from pathlib import Path

from reheatd.adapters.store import LINEAGE_FILE
from reheatd.adapters.validate import CONFIG_FILE, WEIGHTS_FILE, read_config


def export_files(folder: Path, base_model: str) -> dict[str, Path | bytes]:
    """The files of the version in `folder`, by name.

    Args:
        base_model: The base as the policy names it. If that is a Hugging Face id, the configuration gets it in place of
            a folder that only the daemon's machine has, so that PEFT finds the base anywhere.
    """
    config = read_config(folder)
    if base_model.count("/") == 1 and not base_model.startswith((".", "/", "~")) and not Path(base_model).is_dir():
        config["base_model_name_or_path"] = base_model
    return {
        CONFIG_FILE: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        LINEAGE_FILE: folder / LINEAGE_FILE,
        WEIGHTS_FILE: folder / WEIGHTS_FILE,
    }
