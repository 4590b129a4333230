"""`make fuzz`: both surfaces of a real daemon with a real engine, and the property tests beside them.

FUZZ_MINUTES says for how long, 10 by default. Schemathesis asks what the published document allows and what it does
not, and follows its links, with a key for administration. After that come requests that no library sends, with keys of
both roles, wrong ones and none. The run fails if a request gets a 5xx or no
answer, if an answer does not fit the document, if a traceback is shown or logged, or if a property does not hold.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.figures import Report
from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from tests.daemon import Daemon, make_key, running
from tests.fuzz.raw import HANG_S, RawFuzzer
from tests.random_adapter import random_adapter
from tests.tiny_policy import build_tiny_policy

TRACEBACK = "Traceback (most recent call last)"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance",
)  # fmt: skip
PHASES = ("coverage", "fuzzing", "stateful")
"""What Schemathesis does: every value at the edge of what the document allows, random ones, and walks along links."""
BY_DOCUMENT = 0.6
"""Share of the time for Schemathesis; the rest is for raw requests."""
UNSUPPORTED = 501
"""What the engine answers to options that it knows and does not support; the document names it."""
PER_MINUTE = ("--requests-per-minute", "600", "--tokens-per-minute", "20000")
"""Limits of the key that is not for administration; they are reached now and then."""
FACTOR = 10
"""How many times as many examples as in `make test` a pass of the property tests tries."""
SHOWN = 20


@dataclass
class Found:
    """What one run found."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    """Answers that do not fit the published document."""
    failed_properties: list[str] = field(default_factory=list)
    passes: int = 0
    """How often the property tests were run."""

    def add(self, request: str, status: int | None, body: str) -> None:
        self.requests += 1
        if status is None:
            self.hangs.append(request)
            return
        self.statuses[status] += 1
        if status >= 500 and status != UNSUPPORTED:
            self.server_errors.append(f"{status} {body[-400:]!r} to {request!r}")
        if "Traceback" in body:
            self.tracebacks.append(f"in the answer to {request!r}")


def main() -> None:
    minutes = float(os.environ.get("FUZZ_MINUTES", "10"))
    end = time.monotonic() + 60 * minutes
    found = Found()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_tiny_policy(folder / "policy")
        _publish_one(folder, model)
        admin = make_key(folder / "data", "fuzz", "--role", "admin")
        limited = make_key(folder / "data", "app", "--models", "policy*", "--concurrency", "2", *PER_MINUTE)
        tables: dict[str, dict[str, Any]] = {
            "workers": {"report_rollouts": 4},
            "server": {"drain_timeout_s": 5.0, "require_keys": True},
            "control": {"mode": "observe", "rl": "off"},
        }
        with running(folder, model, **tables) as daemon:
            daemon.http.headers["authorization"] = f"Bearer {admin}"
            properties = _Properties(end)
            seconds = end - time.monotonic()
            _by_document(daemon, folder, BY_DOCUMENT * seconds, found)
            raw = RawFuzzer(daemon.url, _engine_schemas(daemon), keys=(admin, limited), seed=time.time_ns())
            for outcome in raw.run(end - time.monotonic()):
                found.add(outcome.request, outcome.status, outcome.body)
            engine_deaths = daemon.log.count("was ended by")
            found.tracebacks += [f"in the daemon's log: {line}" for line in _tracebacks(daemon.log)]
            properties.finish(found)
    report = Report("fuzz")
    report.result("requests", found.requests)
    report.result("server_errors", len(found.server_errors))
    report.result("tracebacks", len(found.tracebacks))
    report.result("hangs", len(found.hangs))
    report.result("misfits", len(found.misfits))
    report.result("engine_deaths", engine_deaths)
    report.result("failed_properties", len(found.failed_properties))
    report.result("property_passes", found.passes)
    lists = (found.server_errors, found.tracebacks, found.hangs, found.misfits, found.failed_properties)
    report.write(minutes=minutes, statuses=dict(sorted(found.statuses.items())), found=[each[:SHOWN] for each in lists])
    for each in lists:
        for line in each[:SHOWN]:
            print(f"found: {line}")
    if any(lists) or engine_deaths:
        sys.exit("reheatd: the fuzzing found what should not be; see the lines above")


def _publish_one(folder: Path, model: Path) -> None:
    """A version to ask, promote and export."""
    with closing(connect(folder / "data" / "reheatd.sqlite3")) as db:
        store = AdapterStore(folder / "data" / "adapters", db)
        adapter = random_adapter(folder / "adapter", model)
        asyncio.run(store.publish(adapter, parent=0, base_model="tiny", base_digest="", kind="imported"))


def _by_document(daemon: Daemon, folder: Path, seconds: float, found: Found) -> None:
    """Schemathesis on the published document. Each phase has its own share of the time, as the first would take all."""
    for phase in PHASES:
        calls = folder / f"{phase}.jsonl"
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/openapi.json", "--phases", phase,
            "--max-time", str(max(1, round(seconds / len(PHASES)))), "--request-timeout", str(HANG_S),
            "--checks", ",".join(CHECKS), "--continue-on-failure", "--max-redirects", "0", "--warnings", "off",
            "--suppress-health-check", "all", "--output-sanitize", "false",
            "--exclude-path", "/reheatd/v1/events",  # its answer never ends
            "--header", f"Authorization: {daemon.http.headers['authorization']}",
        ]  # fmt: skip
        hooks = {"SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "REHEATD_FUZZ_CALLS": str(calls), "NO_COLOR": "1"}
        done = subprocess.run(command, env=os.environ | hooks, capture_output=True, text=True, timeout=seconds + 300)
        if not calls.exists():
            sys.exit(f"reheatd: Schemathesis asked nothing:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        unanswered: Counter[str] = Counter()
        for line in calls.read_text().splitlines():
            call = json.loads(line)
            request = f"{call['method']} {call['path']}"
            unanswered[request] += 1 if call["event"] == "asked" else -1
            if call["event"] == "answered":
                found.add(request, call["status"], call["body"])
        found.hangs += [f"{request} by Schemathesis" for request in unanswered.elements()]
        if done.returncode:
            failures = re.findall(r"^_{5,} (.+?) _{5,}$|^- (.+)$", done.stdout, re.MULTILINE)
            found.misfits += [" ".join(filter(None, failure)) for failure in failures] or [done.stdout[-3000:]]
            print(done.stdout[-20_000:])


def _engine_schemas(daemon: Daemon) -> dict[str, Any]:
    """The schemas of the requests that the engine itself knows, by name. It shows them to whoever has its key."""
    (engine,) = daemon.http.get("/reheatd/v1/status").json()["engines"]
    (process,) = (each for each in daemon.tree() if each.cmdline()[2:4] == ["-m", "reheatd.engine.server"])
    key = {"authorization": f"Bearer {process.environ()['VLLM_API_KEY']}"}
    published = httpx.get(f"{engine['url']}/openapi.json", headers=key, timeout=HANG_S, trust_env=False)
    return published.raise_for_status().json()["components"]["schemas"]


def _tracebacks(log: str) -> list[str]:
    """The last line of every traceback in a log."""
    ends = []
    for part in log.split(TRACEBACK)[1:]:
        lines = part.strip("\n").splitlines()
        ends.append(next((line for line in lines if line and not line.startswith((" ", "\t"))), lines[0]))
    return ends


class _Properties:
    """Runs the property tests again and again until the time is over."""

    def __init__(self, end: float) -> None:
        self._end = end
        self._process = self._start()

    def finish(self, found: Found) -> None:
        """Waits for the present pass, and runs more of them while there is time."""
        while True:
            output, _ = self._process.communicate()
            found.passes += 1
            if self._process.returncode:
                failed = re.findall(r"^(?:FAILED|ERROR) (.+)$", output, re.MULTILINE)
                found.failed_properties += failed or [output[-2000:]]
                print(output[-20_000:])
            if time.monotonic() > self._end:
                return
            self._process = self._start()

    @staticmethod
    def _start() -> "subprocess.Popen[str]":
        tests = sorted(map(str, Path("tests/unit").glob("test_properties_*.py")))
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "REHEATD_FUZZ": str(FACTOR)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, **pipes)


if __name__ == "__main__":
    main()
