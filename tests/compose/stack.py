"""Drives `compose.yaml` with whatever runs compose files here: Docker's own, or podman-compose."""

import os
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = "reheatd-test"
PROJECT_LABEL = f"label=com.docker.compose.project={PROJECT}"
IMAGES = {"full": "reheatd-full", "daemon": "reheatd-daemon"}
SUBSTITUTE = "reheatd-test-prometheus"
PULL_S = 300.0


class Stack:
    """A compose project under its own name, so that it never touches another one's volumes.

    `BUILD_FLAGS` in the environment is handed to the image build (mounts, network, proxies of the machine).
    """

    def __init__(self, environment: dict[str, str]) -> None:
        docker = shutil.which("docker") is not None and _succeeds(["docker", "info"])
        if not docker and shutil.which("podman-compose") is None:
            raise RuntimeError("neither a Docker engine nor podman-compose is here; install one of them")
        self._engine = "docker" if docker else "podman"
        compose = ["docker", "compose"] if docker else ["podman-compose"]
        self._compose = [*compose, "-p", PROJECT, "--profile", "observability"]
        self._environment: dict[str, str] = {**os.environ, **environment}
        self.services = ["redis", "engine", "worker", "reheatd"]
        """What `up` starts."""
        self.ports: dict[str, int] = {}
        """Where Prometheus and Grafana are published."""
        self._stopping = threading.Event()
        self._health = threading.Thread(target=self._run_health_checks, name="health")

    def build(self) -> None:
        for target, image in IMAGES.items():
            flags = shlex.split(os.environ.get("BUILD_FLAGS", ""))
            command = [self._engine, "build", *flags, "--target", target, "-t", image, "-f", "docker/Dockerfile", "."]
            subprocess.run(command, cwd=REPOSITORY, check=True)

    def add_observability(self) -> None:
        """Lets `up` start Prometheus and Grafana as well, as far as their images can be had.

        Where no registry can be reached, Prometheus comes from Debian's package, and Grafana is left out.
        """
        declared = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
        for name in ("prometheus", "grafana"):
            variable, _, official = declared[name]["image"].removeprefix("${").removesuffix("}").partition(":-")
            image = self._environment.get(variable) or official
            if self._has(image):
                self.services.append(name)
            elif name == "prometheus":
                flags = shlex.split(os.environ.get("BUILD_FLAGS", ""))
                file = Path(__file__).with_name("prometheus.Dockerfile")
                command = [self._engine, "build", *flags, "-t", SUBSTITUTE, "-f", str(file), str(file.parent)]
                subprocess.run(command, check=True)
                self._environment[variable] = SUBSTITUTE
                self.services.append(name)

    def _has(self, image: str) -> bool:
        """Whether an image is here or can be pulled."""
        if _succeeds([self._engine, "image", "inspect", image]):
            return True
        try:
            return subprocess.run([self._engine, "pull", image], capture_output=True, timeout=PULL_S).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def up(self) -> None:
        if self._engine == "podman":
            self._health.start()
        self._run("up", "-d", "--no-build", *self.services)

    def down(self) -> None:
        self._stopping.set()
        if self._health.is_alive():
            self._health.join()
        self._run("down", "-v")

    def logs(self, service: str) -> str:
        done = subprocess.run(
            [*self._compose, "logs", service],
            cwd=REPOSITORY,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout[-6000:]

    def started_at(self, service: str) -> str:
        """When the service's container was started last."""
        return self._state(service, "StartedAt")

    def await_restart(self, service: str, started_at: str) -> None:
        """Waits until a service that has ended is running again.

        Docker starts it by itself. podman-compose makes every service require `secrets`, which is over by then, and for
        that Podman starts none again; so it is told to.
        """
        deadline = time.monotonic() + 60
        while self.started_at(service) == started_at or self._state(service, "Status") != "running":
            if time.monotonic() > deadline:
                raise AssertionError(f"{service} is not started again\n{self.logs(service)}")
            if self._engine == "podman" and self._state(service, "Status") in ("exited", "stopped"):
                self._output("podman", "start", self._container(service))
            time.sleep(0.5)

    def exec(self, service: str, *command: str) -> str:
        done = subprocess.run(
            [*self._compose, "exec", "-T", service, *command],
            cwd=REPOSITORY,
            env=self._environment,
            text=True,
            capture_output=True,
            check=True,
        )
        return done.stdout

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._compose, *arguments], cwd=REPOSITORY, env=self._environment, check=True)

    def _run_health_checks(self) -> None:
        # Podman leaves the timer of a health check to systemd; where there is none, nobody runs it.
        while not self._stopping.wait(3):
            for container in self._output("podman", "ps", "-q", "--filter", PROJECT_LABEL).split():
                subprocess.run(["podman", "healthcheck", "run", container], capture_output=True)

    def _container(self, service: str) -> str:
        label = f"label=com.docker.compose.service={service}"
        return self._output(self._engine, "ps", "-a", "-q", "--filter", PROJECT_LABEL, "--filter", label).strip()

    def _state(self, service: str, field: str) -> str:
        return self._output(
            self._engine, "inspect", "--format", f"{{{{.State.{field}}}}}", self._container(service)
        ).strip()

    @staticmethod
    def _output(*command: str) -> str:
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0
