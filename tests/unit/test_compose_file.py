"""`compose.yaml` and the images: nothing published but the gateway, no rights, no secret in a configuration."""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from reheatd.config_server import ServerSection

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OBSERVABILITY = ("metrics-volume", "prometheus", "grafana")
WRITABLE = {
    "secrets": {"secrets", "broker"},
    "redis": {"broker"},
    "metrics-volume": {"metrics"},
    "prometheus": {"metrics"},
    "grafana": {"grafana"},
}
SHARED = dict(line.split("=", 1) for line in (ROOT / "docker/reheatd.env").read_text().splitlines() if line[0] != "#")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_without_rights_and_writes_to_volumes_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "cap_add" not in service
    assert [entry.partition(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
    writable = {entry.split(":")[0] for entry in service["volumes"] if not entry.endswith(":ro")}
    assert writable == WRITABLE.get(name, {"data"})
    assert (name in ("secrets", "metrics-volume")) == (service.get("restart") != "unless-stopped")


def test_requests_have_the_time_to_end_that_the_daemon_gives_them() -> None:
    for name in ("engine", "reheatd"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > ServerSection().drain_timeout_s


def test_every_image_is_built_by_one_service() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    assert len(built) == len(set(built)) == 2
    for service in SERVICES.values():
        if "build" not in service:
            assert (service.get("pull_policy") == "never") == (service["image"] in built)


def test_what_is_published_is_on_loopback() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "reheatd": ["127.0.0.1:${REHEATD_PORT:-8000}:8000"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    assert all(service.get("network_mode") in (None, "none") for service in SERVICES.values())


def test_secrets_are_files_that_every_service_waits_for() -> None:
    assert SHARED["REHEATD_ENGINE__API_KEY_FILE"] == "/run/reheatd/engine"
    assert SHARED["REHEATD_BROKER__PASSWORD_FILE"] == "/run/reheatd/broker"
    assert "@" not in SHARED["REHEATD_BROKER__URL"]
    assert SERVICES["redis"]["command"].startswith("redis-server /run/reheatd/broker.conf ")
    for name in ("redis", "engine", "worker", "reheatd"):
        assert "secrets:/run/reheatd:ro" in SERVICES[name]["volumes"]
        assert SERVICES[name]["depends_on"].keys() & {"secrets", "redis"}


def test_secrets_are_made_once_for_their_owner(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        subprocess.run(["sh", str(ROOT / "docker/secrets.sh"), str(tmp_path)], check=True)
        return {file.name: file.read_text() for file in tmp_path.iterdir()}

    made = make()
    assert make() == made
    assert made["broker.conf"] == f"requirepass {made['broker'].strip()}\n"
    passwords = {made["broker"], made["engine"], made["grafana"]}
    assert len(passwords) == 3 and all(len(each.strip()) > 30 for each in passwords)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_both_images_run_as_a_user_without_rights() -> None:
    stages = (ROOT / "docker/Dockerfile").read_text().split("\nFROM ")
    final = [stage for stage in stages if stage.partition("\n")[0].endswith(("AS daemon", "AS full"))]
    assert len(final) == 2
    for stage in final:
        after = stage[stage.rindex("\nUSER ") :]
        assert after.startswith("\nUSER reheatd\n") and "\nRUN" not in after


def test_prometheus_and_grafana_come_when_asked_for_by_their_versions() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} == set(OBSERVABILITY)
    assert all(SERVICES[name]["profiles"] == ["observability"] for name in OBSERVABILITY)
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"\$\{\w+:-docker\.io/\w+/\w+:v?\d+\.\d+\.\d+\}", SERVICES[name]["image"])


@pytest.mark.parametrize("name", OBSERVABILITY)
def test_every_file_that_is_mounted_is_in_the_checkout(name: str) -> None:
    mounted = [entry.split(":")[0] for entry in SERVICES[name]["volumes"] if entry.startswith("./")]
    assert all((ROOT / path).exists() for path in mounted)
