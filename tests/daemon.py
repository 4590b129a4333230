"""A real `reheatd serve` as a child process."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.waiting import HANGS_S

PROMPT = [{"role": "user", "content": "Tell me something."}]


class Daemon:
    """A real `reheatd serve` on a port and a data folder of its own; see `running`.

    Args:
        tables: Tables of the configuration.
        env: Added to its environment.
        wrapper: Command that its own command is appended to, and which becomes it.
    """

    def __init__(
        self,
        folder: Path,
        tables: dict[str, dict[str, Any]],
        *,
        env: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.data_dir = folder / "data"
        self._log = folder / "serve.log"
        config = folder / "reheatd.toml"
        config.write_text(toml({"data_dir": str(self.data_dir)}, tables))
        self.command = [sys.executable, "-m", "cli.main", "serve", "--json", "--config", str(config)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *self.command],
                env={**os.environ, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            ready = stdout.readline()
        if '"url"' not in ready:
            self.process.wait()
            raise AssertionError(f"the daemon ended before it was ready: {ready}{self._log.read_text()[-4000:]}")
        self.url: str = json.loads(ready)["url"]
        self.admin_url: str = json.loads(ready)["admin_url"]
        self.http = httpx.Client(base_url=self.url, timeout=HANGS_S, trust_env=False)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def answer(self) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={"model": "policy", "messages": PROMPT, "max_tokens": 4})

    def reheatd(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "cli.main", *arguments, "--json", "--url", self.url]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        return json.loads(done.stdout)

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def running(folder: Path, model: Path, **tables: dict[str, Any]) -> Iterator[Daemon]:
    """Runs a daemon on `folder`, whose windows are small and come only when something triggers them.

    Args:
        tables: Tables of the configuration, which are merged into those that every such daemon has.
    """
    daemon = Daemon(folder, merged(model, **tables))
    try:
        yield daemon
    finally:
        daemon.close()


def make_key(data_dir: Path, name: str, *options: str) -> str:
    """Makes an API key; the token that clients send."""
    command = [sys.executable, "-m", "cli.main", "keys", "create", name, "--data-dir", str(data_dir), "--json"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["token"]


def merged(model: Path, **tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables that every such daemon has, and `tables`, which win key by key."""
    common: dict[str, dict[str, Any]] = {
        "policy": {"model": str(model), "max_model_len": 512},
        "server": {"port": 0},
        "engine": {"kv_cache_bytes": 64 << 20, "startup_timeout_s": HANGS_S},
        "entropy": {"interval_s": 3600.0, "probe_count": 4, "max_tokens": 8, "baseline_windows": 1},
        "reheat": {"max_tokens": 48},
        "rl": {"max_tokens": 48},
    }
    names = common.keys() | tables.keys()
    return {name: common.get(name, {}) | tables.get(name, {}) for name in sorted(names)}


def toml(values: dict[str, Any], tables: dict[str, dict[str, Any]]) -> str:
    """A configuration in TOML."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """A value in TOML, whose numbers, strings, booleans and lists are JSON's as well."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)
