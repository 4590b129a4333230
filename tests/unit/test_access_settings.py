"""Which settings ask for keys, and which are refused, before anything is started."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reheatd.config import load_settings
from reheatd.config_server import ServerSection
from reheatd.errors import ConfigError


@pytest.mark.parametrize(
    ("server", "needed"),
    [
        ({}, False),
        ({"host": "127.0.0.7"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "127.0.0.1", "admin_host": "0.0.0.0"}, False),  # there is no such port
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": ""}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "gpu-1"}, True),
        ({"admin_port": 8001, "admin_host": "0.0.0.0"}, True),
        ({"admin_port": 8001}, False),
        ({"require_keys": True}, True),
        ({"require_keys": False}, False),
    ],
)
def test_keys_are_needed_where_other_machines_may_ask(server: dict[str, Any], needed: bool) -> None:
    assert ServerSection(**server).needs_keys is needed


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"host": "0.0.0.0", "require_keys": False}, r"require_keys = false .* 0\.0\.0\.0"),
        ({"admin_port": 1, "admin_host": "::", "require_keys": False}, "require_keys = false .* ::"),
        ({"tls_certificate": "server.pem"}, "tls_certificate is of no use without tls_key"),
        ({"tls_key": "server.key"}, "tls_key is of no use without tls_certificate"),
        ({"port": 8000, "admin_port": 8000}, "admin_port = 8000"),
    ],
)
def test_what_would_let_everybody_in_or_cannot_work_is_refused(server: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_settings(None, {"server": server})


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "`reheatd keys create admin --role admin"),
        ({"REHEATD_SERVER__TLS_CERTIFICATE": "no.pem", "REHEATD_SERVER__TLS_KEY": "no.key"}, "no.pem cannot be read"),
    ],
)
def test_serve_refuses_in_one_line(environment: dict[str, str], says: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "serve", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, env={**_plain(), **environment}, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert says in done.stderr


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("REHEATD_")}
