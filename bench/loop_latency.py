"""How long the daemon's event loop gives clients' streams no turn while it answers what is long.

Each case is measured twice in one run: as the daemon answers it, and with the same content made at once.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from bench.figures import Report
from reheatd.database import connect
from reheatd.entropy.live import LiveSeries
from reheatd.entropy.series import EntropySeries
from reheatd.entropy.windows import LiveWindow, Window
from tests.loop_probe import get, watched_loop
from tests.unit.api_support import ApiWorld
from tests.unit.control_figures import entropy, window

WINDOWS = 100_000
LISTINGS = 100


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


async def watch(report: Report, name: str, work: Awaitable[Any]) -> None:
    async with watched_loop() as probe:
        await work
    report.result(f"{name}_turn_cpu_ms", 1000 * probe.cpu_seconds, "ms of processor time in the longest turn")
    report.result(f"{name}_turn_ms", 1000 * probe.seconds, "ms by the clock")


async def ask(app: ASGIApp, path: str, times: int) -> None:
    for _ in range(times):
        await get(app, path)


async def measure(folder: Path, report: Report) -> None:
    world = ApiWorld(folder)
    async with world:
        app = world.app()
        probe_text = window(0, "ok", 1.9).model_dump_json()
        live_text = LiveWindow(
            version="policy-v0", source="live", measured_by="tap", estimate=entropy(1.9), by_position=[]
        ).model_dump_json()
        with world.db:
            world.db.executemany(
                "INSERT INTO entropy_windows (time, version, key, window) VALUES (?, 0, ?, ?)",
                ((float(number), world.series.key, probe_text) for number in range(WINDOWS)),
            )
            world.db.executemany(
                "INSERT INTO live_windows (time, version, source, window) VALUES (?, 'policy-v0', 'live', ?)",
                ((float(number), live_text) for number in range(WINDOWS)),
            )
        # As the daemon does before it is ready.
        gc.collect()
        gc.freeze()
        await watch(report, "idle", asyncio.sleep(2.0))
        for name, path, times in (
            ("probe_windows", f"/reheatd/v1/entropy?last={WINDOWS}", 1),
            ("live_windows", f"/reheatd/v1/entropy/live?last={WINDOWS}", 1),
            ("live_windows_of_source", f"/reheatd/v1/entropy/live?last={WINDOWS}&source=live", 1),
            ("status", "/reheatd/v1/status", LISTINGS),
            ("adapters", "/reheatd/v1/adapters", LISTINGS),
        ):
            await ask(app, path.replace(str(WINDOWS), "1"), 1)  # what only the first answer needs is made
            await watch(report, name, ask(app, path, times))
        at_once = seconds(lambda: EntropySeries(world.db, world.series.key).last(WINDOWS))
        report.result("probe_windows_at_once_ms", 1000 * at_once, "ms")
        at_once = seconds(lambda: LiveSeries(world.db, confidence=0.95).last(WINDOWS))
        report.result("live_windows_at_once_ms", 1000 * at_once, "ms")
        report.result("commit_ms", 1000 * seconds(lambda: world.series.save_max_tokens(7)), "ms")
        report.result("parse_window_us", 1e6 * seconds(lambda: Window.model_validate_json(probe_text)), "us")


def main() -> None:
    report = Report("loop_latency")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), report))
        connect(Path(folder) / "reheatd.sqlite3").close()
    report.write(windows=WINDOWS, listings=LISTINGS)


if __name__ == "__main__":
    main()
