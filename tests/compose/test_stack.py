"""`compose.yaml` for real: images built, the stack up, keys, a reheat and a swap through the one published port.

Run with `make test-compose`; not part of `make test`, since it needs a container engine and builds images of several
gigabytes.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.process.ports import reserve_port
from tests.compose.stack import Stack
from tests.tiny_policy import build_tiny_policy

SERVICES = ("redis", "engine", "worker", "reheatd", "prometheus")
START_TIMEOUT_S = 600.0
JOB_TIMEOUT_S = 600.0
MAX_MODEL_LEN = 128


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, httpx.Client]]:
    models = tmp_path_factory.mktemp("models")
    build_tiny_policy(models / "tiny")
    _shorten(models / "tiny" / "config.json")
    for folder in (models, *models.parents[:1]):
        folder.chmod(0o755)
    port, prometheus_port, grafana_port = reserve_port(), reserve_port(), reserve_port()
    stack = Stack(
        {
            "REHEATD_MODELS": str(models),
            "REHEATD_POLICY__MODEL": "/models/tiny",
            "REHEATD_PORT": str(port),
            "PROMETHEUS_PORT": str(prometheus_port),
            "GRAFANA_PORT": str(grafana_port),
        }
    )
    stack.ports = {"prometheus": prometheus_port, "grafana": grafana_port}
    stack.build()
    stack.add_observability()
    stack.up()
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(stack, url)
        assert httpx.get(f"{url}/v1/models", timeout=5).status_code == 401
        key = stack.exec("reheatd", "cat", "/data/admin.key").strip()
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120) as client:
            yield stack, client
    finally:
        stack.down()


def _shorten(config: Path) -> None:
    """Says that the policy was made for short sequences: its random weights never end an answer."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": MAX_MODEL_LEN}))


def _wait_ready(stack: Stack, url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(2)
    raise AssertionError("\n".join(f"== {name}\n{stack.logs(name)}" for name in ("secrets", *SERVICES)))


def _ask(client: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.timeout(3000)
def test_reheat_and_swap_through_the_published_port(stack: tuple[Stack, httpx.Client]) -> None:
    containers, client = stack
    assert _ask(client, "policy").headers["x-reheatd-version"] == "policy-v0"
    request = {
        "kind": "reheat",
        "tau": 1.5,
        "steps": 8,
        "learning_rate": 5e-3,
        "force": True,
    }  # the tiny policy has not collapsed
    job: dict[str, Any] = client.post("/reheatd/v1/jobs", json=request).raise_for_status().json()
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while job["status"] not in ("succeeded", "rejected", "failed", "cancelled"):
        assert time.monotonic() < deadline, f"{job}\n{containers.logs('worker')}"
        time.sleep(2)
        job = client.get(f"/reheatd/v1/jobs/{job['job_id']}").json()
        if job["status"] == "awaiting_approval":  # the tiny policy solves nothing, so accuracy is no evidence
            client.post(f"/reheatd/v1/jobs/{job['job_id']}/approve").raise_for_status()
    assert job["status"] == "succeeded", f"{job}\n{containers.logs('worker')}\n{containers.logs('reheatd')}"
    answer = _ask(client, "policy")
    assert answer.status_code == 200
    assert answer.headers["x-reheatd-version"] == "policy-v1"
    assert "policy-v1" in containers.exec("reheatd", "reheatd", "adapters", "list", "--json")


@pytest.mark.timeout(3000)
def test_a_key_made_in_the_container_opens_inference_alone(stack: tuple[Stack, httpx.Client]) -> None:
    containers, client = stack
    made = json.loads(containers.exec("reheatd", "reheatd", "keys", "create", "my-app", "--json"))
    headers = {"authorization": f"Bearer {made['token']}"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.get("/reheatd/v1/status", headers=headers).status_code == 403
    assert json.loads(containers.exec("reheatd", "reheatd", "status", "--json"))["policy"] == "/models/tiny"


@pytest.mark.timeout(3000)
def test_services_have_no_rights_and_let_nobody_in_without_a_secret(stack: tuple[Stack, httpx.Client]) -> None:
    containers, _ = stack
    for service in SERVICES:
        assert containers.exec(service, "id", "-u").strip() == "10001"
        assert "Read-only file system" in containers.exec(service, "sh", "-c", "touch /usr/x 2>&1 || true")
        assert "CapEff:\t0000000000000000" in containers.exec(service, "cat", "/proc/self/status")
    assert "NOAUTH" in containers.exec("redis", "redis-cli", "ping")
    ask = "import urllib.request; urllib.request.urlopen('http://engine:8100/metrics')"
    assert "HTTP Error 401" in containers.exec("worker", "sh", "-c", f'python -c "{ask}" 2>&1 || true')


@pytest.mark.timeout(3000)
def test_prometheus_asks_daemon_and_engine_with_their_keys(stack: tuple[Stack, httpx.Client]) -> None:
    containers, _ = stack
    url = f"http://127.0.0.1:{containers.ports['prometheus']}/api/v1"
    deadline = time.monotonic() + 120
    up: dict[str, str] = {}
    while up != {"reheatd": "1", "engine": "1"}:
        assert time.monotonic() < deadline, f"{up}\n{containers.logs('prometheus')}"
        time.sleep(2)
        found = httpx.get(f"{url}/query", params={"query": "up"}, timeout=30).json()["data"]["result"]
        up = {series["metric"]["job"]: series["value"][1] for series in found}
    groups = httpx.get(f"{url}/rules", timeout=30).json()["data"]["groups"]
    assert all(rule["health"] != "err" for group in groups for rule in group["rules"]) and len(groups) == 3


@pytest.mark.timeout(3000)
def test_grafana_shows_the_dashboard_to_its_admin_alone(stack: tuple[Stack, httpx.Client]) -> None:
    containers, _ = stack
    if "grafana" not in containers.services:
        pytest.skip("Grafana's image cannot be pulled here")
    url = f"http://127.0.0.1:{containers.ports['grafana']}/api"
    deadline = time.monotonic() + 120
    password = containers.exec("reheatd", "cat", "/run/reheatd/grafana").strip()
    while not _answers(f"{url}/health"):
        assert time.monotonic() < deadline, containers.logs("grafana")
        time.sleep(2)
    assert httpx.get(f"{url}/dashboards/uid/reheatd", timeout=30).status_code == 401
    shown = httpx.get(f"{url}/dashboards/uid/reheatd", auth=("admin", password), timeout=30)
    assert shown.json()["dashboard"]["title"] == "reheatd"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.timeout(3000)
def test_an_engine_that_ends_is_started_again_and_serves_what_is_promoted(stack: tuple[Stack, httpx.Client]) -> None:
    containers, client = stack
    promoted = _ask(client, "policy").headers["x-reheatd-version"]
    started = containers.started_at("engine")
    containers.exec("engine", "sh", "-c", "kill 1")
    containers.await_restart("engine", started)
    deadline = time.monotonic() + START_TIMEOUT_S
    while (answer := _ask(client, "policy")).status_code != 200:
        assert time.monotonic() < deadline, containers.logs("engine")
        time.sleep(2)
    assert answer.headers["x-reheatd-version"] == promoted
