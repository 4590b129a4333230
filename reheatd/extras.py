"""Optional parts of the distribution, checked before anything is started; nothing heavy is imported to find out."""

import importlib.util
from typing import Literal

from reheatd.errors import MissingExtraError


def require_worker_extra() -> None:
    """Raises:
    MissingExtraError: A worker cannot run here.
    """
    missing = _missing("torch", "transformers", "peft")
    if missing:
        raise MissingExtraError(
            f"a worker needs {missing}: pip install 'reheatd[worker]', or run workers elsewhere (--workers 0)"
        )


def require_engine_extra(device: Literal["cpu", "cuda"]) -> None:
    """Raises:
    MissingExtraError: The engine cannot run here.
    """
    missing = _missing("vllm")
    if missing:
        raise MissingExtraError(
            f"the engine needs {missing}: pip install 'reheatd[engine-{device}]' (`make setup` in a checkout), "
            "or name a running one in engine.url"
        )


def _missing(*modules: str) -> str:
    return ", ".join(name for name in modules if importlib.util.find_spec(name) is None)
