"""The monitor on a simulated policy whose next-token distribution, and so entropy, is known."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from reheatd.config_tables import EntropySection
from reheatd.database import connect
from reheatd.entropy.detector import CollapseDetector, Origin
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.monitor import EntropyMonitor, OutdatedWindowError
from reheatd.entropy.series import EntropySeries
from reheatd.entropy.windows import Window
from reheatd.errors import BadInputError, EngineError
from reheatd.measures import EntropyEstimate
from tests.unit.entropy_support import NOISE, SETTINGS, SimulatedEngine, exact_entropy, make_meter


def origin_of(version: int) -> Origin:
    return "base" if version == 0 else "reheat" if version == 2 else "rl"


class Daemon:
    """The monitor with its surroundings; `version` is what the alias means."""

    def __init__(
        self, folder: Path, engine: SimulatedEngine, settings: EntropySection = SETTINGS, *, own_baseline: bool = True
    ) -> None:
        self.version = 0
        self.seen: list[Window] = []
        self.stalled: set[int] = set()
        self.db = connect(folder / "reheatd.sqlite3")
        self.series = EntropySeries(self.db, "key")
        self.monitor = EntropyMonitor(
            make_meter(engine),
            self.series,
            CollapseDetector(settings),
            settings,
            lambda: (self.version, f"policy-v{self.version}" if self.version else "base"),
            origin_of,
            lambda version: version in self.stalled,
            self.seen.append,
            own_baseline=own_baseline,
        )

    async def run_until(self, done: Callable[[], bool]) -> None:
        """Runs the schedule until `done`, looked at after every turn of the event loop."""
        running = asyncio.create_task(self.monitor.run())
        while not done():
            assert not running.done(), running.exception()
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def drive(folder: Path, story: Callable[[Daemon, SimulatedEngine], Awaitable[None]]) -> None:
    engine = SimulatedEngine()
    daemon = Daemon(folder, engine)
    try:
        asyncio.run(story(daemon, engine))  # type: ignore[arg-type]
    finally:
        daemon.db.close()


def test_baseline_is_measured_once_and_reused_after_a_restart(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        baseline = await daemon.monitor.ensure_baseline()
        assert baseline.mean == pytest.approx(exact_entropy(1.0), abs=NOISE)
        assert baseline.sequences == 2 * SETTINGS.probe_count
        asked = len(engine.asked)
        assert await Daemon(tmp_path, engine).monitor.ensure_baseline() == baseline
        assert len(engine.asked) == asked

    drive(tmp_path, story)


def test_the_base_is_not_sampled_again_for_its_first_window(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        first = await daemon.monitor.take_window()
        assert len(engine.asked) == SETTINGS.baseline_windows * SETTINGS.probe_count
        assert first.verdict == "ok" and first.estimate.sequences == SETTINGS.probe_count
        assert (await daemon.monitor.take_window()).estimate != first.estimate

    drive(tmp_path, story)


def test_a_measurement_says_how_far_it_is(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        seen: list[tuple[str, int, int]] = []

        def look() -> None:
            progress = daemon.monitor.progress
            assert progress is not None
            seen.append((progress.model, progress.done, progress.of))

        engine.before_answer = look
        await daemon.monitor.ensure_baseline()
        of = SETTINGS.baseline_windows * SETTINGS.probe_count
        assert seen[0] == ("base", 0, of) and seen[-1][1] > of / 2
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert daemon.monitor.progress is None

    drive(tmp_path, story)


def test_a_known_baseline_is_there_while_something_is_being_measured(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        baseline = await daemon.monitor.ensure_baseline()
        window = asyncio.create_task(daemon.monitor.take_window())
        while daemon.monitor.progress is None:
            await asyncio.sleep(0)
        assert await daemon.monitor.ensure_baseline() == baseline
        assert not window.done()
        await window

    drive(tmp_path, story)


def test_all_who_ask_for_a_window_at_once_get_the_same_one(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        await daemon.monitor.ensure_baseline()
        before = len(engine.asked)
        asked = [asyncio.create_task(daemon.monitor.window_now()) for _ in range(20)]
        while daemon.monitor.progress is None:
            await asyncio.sleep(0)
        asked[0].cancel()  # one who goes away ends it for nobody else
        windows = await asyncio.gather(*asked[1:])
        assert all(window is windows[0] for window in windows)
        assert len(engine.asked) - before == SETTINGS.probe_count
        assert await daemon.monitor.window_now() != windows[0]

    drive(tmp_path, story)


def test_a_failed_baseline_stores_nothing(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.failures = [EngineError("restarting")]
        with pytest.raises(EngineError):
            await daemon.monitor.ensure_baseline()
        assert daemon.monitor.baseline is None

    drive(tmp_path, story)


def test_a_base_without_entropy_is_refused(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["base"] = 1e-4
        with pytest.raises(BadInputError, match=r"set entropy\.probes"):
            await daemon.monitor.ensure_baseline()

    drive(tmp_path, story)


def test_collapse_is_confirmed_at_once_without_waiting_for_the_schedule(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v1"] = 0.2
        daemon.version = 1
        await daemon.run_until(lambda: daemon.monitor.verdict == "collapsed")
        assert [(one.source, one.verdict, one.detector.low) for one in daemon.seen] == [
            ("schedule", "warning", 1),
            ("confirm", "collapsed", 2),
        ]
        assert {one.model for one in daemon.seen} == {"policy-v1"}
        assert len({one.seed for one in daemon.seen}) == 2
        assert daemon.seen[0].ratio == pytest.approx(exact_entropy(0.2) / exact_entropy(1.0), abs=NOISE)
        assert Daemon(tmp_path, engine).series.last(5) == daemon.seen

    drive(tmp_path, story)


def test_the_measurement_at_the_gates_is_a_version_s_first_window(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v1"] = 0.2
        await daemon.monitor.ensure_baseline()
        measurement = await daemon.monitor.measure_version("policy-v1")
        daemon.version = 1
        daemon.monitor.adopt(1, measurement)
        assert daemon.monitor.verdict == "warning"
        assert daemon.monitor.latest_estimate(1) == measurement.estimate
        await daemon.run_until(lambda: daemon.monitor.verdict == "collapsed")
        sources = [(one.source, one.detector.low) for one in daemon.seen if one.version == 1]
        assert sources[0] == ("gate", 1)
        assert sources[-1][1] == 2

    drive(tmp_path, story)


def test_patience_goes_on_counting_after_a_restart(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v1"] = 0.2
        daemon.version = 1
        await daemon.monitor.take_window()
        restarted = Daemon(tmp_path, engine)
        restarted.version = 1
        assert restarted.monitor.verdict == "warning"
        assert (await restarted.monitor.take_window()).verdict == "collapsed"

    drive(tmp_path, story)


def test_trigger_takes_a_window_now_and_a_new_version_starts_afresh(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures |= {"policy-v1": 0.2, "policy-v2": 0.95}
        daemon.version = 1
        await daemon.run_until(lambda: daemon.monitor.verdict == "collapsed")
        daemon.version = 2
        assert daemon.monitor.verdict is None
        daemon.monitor.trigger()
        await daemon.run_until(lambda: daemon.monitor.verdict == "ok")
        assert daemon.seen[-1].version == 2

    drive(tmp_path, story)


def test_a_failing_engine_records_nothing_and_the_next_occasion_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        await daemon.monitor.ensure_baseline()
        engine.failures = [EngineError("the engine restarts")]
        await daemon.run_until(lambda: "the engine restarts" in caplog.text)
        assert daemon.series.last(5) == []
        assert daemon.monitor.verdict is None
        assert daemon.monitor.problem == "the engine restarts"
        daemon.monitor.trigger()
        await daemon.run_until(lambda: daemon.monitor.verdict == "ok" and daemon.monitor.problem is None)

    drive(tmp_path, story)


def test_a_window_belongs_to_the_version_it_sampled_when_the_alias_flips_meanwhile(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v1"] = 0.2
        daemon.version = 1
        await daemon.monitor.ensure_baseline()

        def flip() -> None:
            daemon.version = 0

        engine.before_answer = flip
        window = await daemon.monitor.take_window()
        assert (window.version, window.model) == (1, "policy-v1")
        assert daemon.series.last(1) == [window]
        assert daemon.seen == []  # nobody acts on a version that is no longer served
        assert daemon.monitor.verdict is None

    drive(tmp_path, story)


def test_a_window_of_a_version_that_was_replaced_is_given_up(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v1"] = 0.2
        daemon.version = 1
        await daemon.monitor.ensure_baseline()
        daemon.monitor.give_up_outdated()  # nothing is being measured

        def flip() -> None:
            daemon.monitor.give_up_outdated()  # not replaced yet: goes on
            daemon.version = 0
            asyncio.get_running_loop().call_soon(daemon.monitor.give_up_outdated)

        engine.before_answer = flip
        with pytest.raises(OutdatedWindowError, match="policy-v1 was replaced"):
            await daemon.monitor.take_window()
        assert daemon.series.last(1) == []
        assert (await daemon.monitor.take_window()).version == 0

    drive(tmp_path, story)


def test_the_latest_estimate_is_the_newest_window_and_of_the_base_the_baseline(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v1"] = 0.2
        daemon.version = 1
        assert daemon.monitor.latest_estimate(0) is None
        await daemon.monitor.take_window()
        newest = await daemon.monitor.take_window()
        assert daemon.monitor.latest_estimate(1) == newest.estimate
        assert daemon.monitor.latest_estimate(0) == daemon.monitor.baseline
        assert daemon.monitor.latest_estimate(2) is None

    drive(tmp_path, story)


def test_a_stalled_policy_is_called_so_unless_its_entropy_says_why(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures |= {"policy-v1": 1.0, "policy-v3": 0.2}
        daemon.stalled = {1, 3}
        daemon.version = 1
        assert (await daemon.monitor.take_window()).verdict == daemon.monitor.verdict == "stalled"
        daemon.stalled = {3}
        assert daemon.monitor.verdict == "ok"
        daemon.version = 3
        assert (await daemon.monitor.take_window()).verdict == "stalled" and daemon.monitor.is_undecided
        collapsed = await daemon.monitor.take_window()
        assert collapsed.verdict == daemon.monitor.verdict == "collapsed" and not daemon.monitor.is_undecided

    drive(tmp_path, story)


def test_a_checkpoint_with_a_reference_can_be_collapsed_itself(tmp_path: Path) -> None:
    async def story(_: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["base"] = 0.2
        daemon = Daemon(tmp_path, engine, own_baseline=False)
        with pytest.raises(RuntimeError, match="no baseline"):
            await daemon.monitor.ensure_baseline()
        daemon.series.save_baseline(EntropyEstimate(mean=2.0, low=2.0, high=2.0, tokens=0, sequences=0))
        assert daemon.monitor.latest_estimate(0) is None
        await daemon.run_until(lambda: daemon.monitor.verdict == "collapsed")
        assert {(one.version, one.baseline) for one in daemon.seen} == {(0, 2.0)}
        assert daemon.monitor.latest_estimate(0) == daemon.seen[-1].estimate

    drive(tmp_path, story)


def test_measuring_a_candidate_records_nothing(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        engine.temperatures["policy-v7"] = 0.5
        measurement = await daemon.monitor.measure_version("policy-v7")
        assert measurement.estimate.mean == pytest.approx(exact_entropy(0.5), abs=NOISE)
        assert daemon.series.last(5) == []

    drive(tmp_path, story)


def test_the_tail_model_learns_from_earlier_windows_only(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        await daemon.monitor.take_window()
        before = daemon.series.tail_moments().draws
        assert before > 0
        first_model = daemon.monitor._meter.tail_model
        assert (first_model.w0, first_model.w1, first_model.w2) == pytest.approx((2.0, -1.0, 0.0))
        await daemon.monitor.take_window()
        assert daemon.monitor._meter.tail_model != first_model
        assert daemon.series.tail_moments().draws > before

    drive(tmp_path, story)


def test_the_monitor_says_when_the_next_window_is_due(tmp_path: Path) -> None:
    async def story(daemon: Daemon, engine: SimulatedEngine) -> None:
        due: list[float] = []

        def seen() -> bool:
            if daemon.monitor.next_at is not None:
                due.append(daemon.monitor.next_at)
            return bool(due)

        began = time.time()
        await daemon.run_until(seen)
        assert began < due[0] - SETTINGS.interval_s <= time.time()
        assert daemon.monitor.next_at is None  # nothing is planned any more

    drive(tmp_path, story)


def test_the_schedule_goes_by_the_fastest_of_the_last_windows(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"interval_s": 120.0, "max_share": 0.01})
    daemon = Daemon(tmp_path, SimulatedEngine(), settings)
    assert daemon.monitor._pause_s() == 120

    async def one() -> Window:
        return await daemon.monitor.take_window()

    taken = asyncio.run(one())
    daemon.db.execute("DELETE FROM entropy_windows")
    for seconds in (8.0, 4.0, 6.0):
        daemon.series.append(taken.model_copy(update={"seconds": seconds}), TailMoments())
    assert daemon.monitor._pause_s() == pytest.approx(400)
    daemon.db.close()
