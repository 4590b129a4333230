"""`reheatd serve` that asks for keys, speaks TLS and has a port for administration; a job on it needs no key."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import make_certificate
from tests.daemon import PROMPT, make_key, running
from tests.waiting import HANGS_S, wait_until


def test_a_job_runs_where_everybody_else_needs_a_key(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path / "tls")
    monkeypatch.setenv("REHEATD_CA_FILE", str(certificate))
    data_dir = tmp_path / "data"
    admin, client = (
        make_key(data_dir, "ops", "--role", "admin"),
        make_key(data_dir, "ci", "--tokens-per-minute", "9999"),
    )
    assert data_dir.stat().st_mode & 0o777 == 0o700
    server = {"require_keys": True, "admin_port": 0, "tls_certificate": str(certificate), "tls_key": str(key)}
    reheat = {"max_tokens": 8, "prompts_per_step": 4}
    tables: dict[str, dict[str, Any]] = {
        "server": server,
        "reheat": reheat,
        "task": {"eval_count": 4, "eval_max_tokens": 8},
        "workers": {"report_rollouts": 2},
    }
    with running(tmp_path, tiny_policy, **tables) as daemon:
        assert daemon.url.startswith("https://") and daemon.admin_url not in ("", daemon.url)

        def ask(url: str, token: str | None, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            return httpx.request(
                "GET" if body is None else "POST", url + path, json=body, headers=headers, verify=str(certificate),
                timeout=HANGS_S, trust_env=False,
            )  # fmt: skip

        chat = {"model": "policy", "messages": PROMPT, "max_tokens": 4, "stream": True}
        assert ask(daemon.url, None, "/v1/chat/completions", chat).status_code == 401
        streamed = ask(daemon.url, client, "/v1/chat/completions", chat)
        assert streamed.status_code == 200 and streamed.text.endswith("data: [DONE]\n\n")
        assert '"usage"' not in streamed.text and streamed.text.count("data: ") >= 3
        assert ask(daemon.admin_url, client, "/reheatd/v1/status").status_code == 403
        assert ask(daemon.url, admin, "/reheatd/v1/status").status_code == 404

        monkeypatch.setenv("REHEATD_API_KEY", admin)
        monkeypatch.setenv("REHEATD_URL", daemon.admin_url)
        asked = [sys.executable, "-m", "cli.main", "reheat", "--force", "--steps", "1", "--wait", "--json"]
        waiting = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
        trained = wait_until(lambda: _trained(ask(daemon.admin_url, admin, "/reheatd/v1/jobs").json()["jobs"]))
        waiting.terminate()
        waiting.communicate()
        assert trained["status"] != "failed", (trained, daemon.log[-4000:])
        assert trained["step"] == 1
        entries = ask(daemon.admin_url, admin, "/reheatd/v1/journal").json()["entries"]
        assert [(entry["actor"], entry["reason"]) for entry in entries if entry["event"] == "requested"] == [
            ("local", "key ops for admin made"),
            ("local", "key ci for inference made"),
            ("ops", f"{trained['job_id']} submitted"),
        ]
        told = daemon.log + "".join(file.read_text(errors="replace") for file in (data_dir / "logs").iterdir())
        assert not any(secret in told for secret in (admin, client, "rh-job-"))


def _trained(jobs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The only job, once its worker has handed over the result or failed."""
    over = [job for job in jobs if job["status"] not in ("queued", "running")]
    return over[0] if over else None
