"""A real Prometheus and its promtool: those that are installed, or those that `make test` has unpacked."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from reheatd.process.ports import reserve_port
from tests.waiting import HANGS_S, wait_until

ROOT = Path(__file__).parents[1]
RULES = ROOT / "docker/alert-rules.yml"
CONFIGURATION = ROOT / "docker/prometheus.yml"
DASHBOARD = ROOT / "docker/grafana/dashboards/reheatd.json"
UNPACKED = ROOT / ".prometheus/usr/bin"
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m", "$__range": "1h"}
"""What stands in the place of Grafana's variables in the dashboard's queries."""


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED)]))
    if found is None:
        raise RuntimeError(
            f"{name} is not here: run `make prometheus` on Debian or Ubuntu, or put Prometheus' programs into the PATH"
        )
    return found


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Runs promtool, which must have nothing to say against `text` or the files it gets."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """The alerts in the order of their file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries() -> dict[str, list[str]]:
    """The dashboard's queries by the title of their panel, with values for Grafana's variables."""
    board = json.loads(DASHBOARD.read_text())
    queries = {panel["title"]: [each["expr"] for each in panel.get("targets", [])] for panel in board["panels"]}
    queries["annotations"] = [each["expr"] for each in board["annotations"]["list"]]
    return {title: [_filled(each) for each in own] for title, own in queries.items() if own}


def _filled(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


class Prometheus:
    """A client of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=HANGS_S, trust_env=False)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now; an error of the expression fails the test."""
        answer = self.http.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = self.http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus with the configuration and the rules of `docker/`, at a quicker pace.

    Args:
        target: host:port of the daemon, which must need no keys.
    """
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    configuration["global"] = {"scrape_interval": "2s", "evaluation_interval": "200ms"}
    (job,) = [each for each in configuration["scrape_configs"] if each["job_name"] == "reheatd"]
    configuration["scrape_configs"] = [{"job_name": job["job_name"], "static_configs": [{"targets": [target]}]}]
    quicker = yaml.safe_load(RULES.read_text())
    for group in quicker["groups"]:
        for rule in group["rules"]:
            rule["for"] = "1s"
    (folder / RULES.name).write_text(yaml.safe_dump(quicker))
    (folder / CONFIGURATION.name).write_text(yaml.safe_dump(configuration))
    port = reserve_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / CONFIGURATION.name}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: _is_ready(prometheus, process, folder / "prometheus.log"))
        yield prometheus
    finally:
        prometheus.http.close()
        process.terminate()
        process.wait()


def _is_ready(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return prometheus.http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
