"""Watches the promoted version: measures windows on a schedule and gives a verdict after each."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable

from reheatd.config_tables import EntropySection
from reheatd.database import StateError
from reheatd.entropy.answer_length import AnswerLength
from reheatd.entropy.detector import CollapseDetector, Origin, Verdict, with_signal
from reheatd.entropy.meter import EntropyMeter, Measurement, WindowFigures
from reheatd.entropy.regime import Run, Thresholds
from reheatd.entropy.series import EntropySeries, Source, Window
from reheatd.errors import BadInputError, ConflictError, EngineError, NotFoundError
from reheatd.measures import Contract, EntropyEstimate
from reheatd.names import BASE_MODEL_NAME
from reheatd.options import ProbeOptions, WindowOptions

__all__ = ["EntropyMeter", "EntropyMonitor", "Measurement"]

logger = logging.getLogger(__name__)

PACE_WINDOWS = 10
"""Number of recent windows from which the cost of a window is taken."""


class MeasurementProgress(Contract):
    """The progress of a measurement."""

    model: str
    done: int
    """Number of probes that are answered."""
    of: int
    """Number of probes in all."""


class OutdatedWindowError(ConflictError):
    """The version was replaced while its entropy was being measured."""


class EntropyMonitor:
    """Measures the promoted version on a schedule, when triggered, and again at once after a low window.

    Every window samples the same fixed probes with a fresh seed. Windows therefore differ from each other and from the
    baseline by sampling noise and by the policy, but not by the prompts. A window belongs to the version whose pinned
    name was sampled, even if the alias means another version by then.

    Args:
        meter: Its client must reach `base` and every name that `model_of_promoted` returns.
        series: Keeps the windows and the baseline; its key must cover the meter's probes and settings.
        detector: Turns windows into verdicts.
        settings: The schedule and the number of baseline windows.
        model_of_promoted: Returns the number and the pinned model name of the version that is promoted now.
        origin_of: Returns how a version was made.
        is_stalled: Returns whether a version has stalled by its learning signal.
        on_verdict: Called after each recorded window whose version is still promoted. It must not block.
        own_baseline: Whether the baseline is the entropy of version 0, and is measured when it is needed first. If not,
            it is that of a reference, and the series has it already.
        answer_length: Finds the longest answer; needed if the meter has none.
    """

    def __init__(
        self,
        meter: EntropyMeter,
        series: EntropySeries,
        detector: CollapseDetector,
        settings: EntropySection,
        model_of_promoted: Callable[[], tuple[int, str]],
        origin_of: Callable[[int], Origin],
        is_stalled: Callable[[int], bool],
        on_verdict: Callable[[Window], None] | None = None,
        *,
        own_baseline: bool = True,
        answer_length: AnswerLength | None = None,
    ) -> None:
        self.on_verdict = on_verdict
        self._meter = meter
        self._series = series
        self._detector = detector
        self._settings = settings
        self._model_of_promoted = model_of_promoted
        self._origin_of = origin_of
        self._is_stalled = is_stalled
        self._own_baseline = own_baseline
        self._answer_length = answer_length
        self._state = series.detector_state()
        self._wake = asyncio.Event()
        self._wake_source: Source = "trigger"
        self._window: tuple[int, asyncio.Task[list[Measurement]]] | None = None
        self._asked: asyncio.Task[Window] | None = None
        """The window that `window_now` measures."""
        # One measurement at a time: two at once would slow down clients and each other.
        self._measuring = asyncio.Lock()
        self.progress: MeasurementProgress | None = None
        """Progress of the present measurement; None if none is under way."""
        self.problem: str | None = None
        """Why the newest scheduled window failed; None if it did not."""
        self.next_at: float | None = None
        """When the next window is due, in seconds since the epoch; None while one is measured or none is planned."""

    @property
    def meter(self) -> EntropyMeter:
        """What measures: its probes, and its estimator."""
        return self._meter

    @property
    def baseline(self) -> EntropyEstimate | None:
        """Entropy of the base policy on the probes: of version 0, or of the reference. None until it was measured."""
        return self._series.baseline()

    @property
    def max_tokens(self) -> int | None:
        """The longest answer to a probe, in tokens; None until it has been found."""
        return self._meter.max_tokens or self._series.max_tokens()

    @property
    def verdict(self) -> Verdict | None:
        """Verdict on the promoted version; None until a window of it has been recorded."""
        state = self._state
        if state is None or state.version != self._model_of_promoted()[0]:
            return None
        return with_signal(state.verdict, self._is_stalled(state.version))

    @property
    def is_undecided(self) -> bool:
        """Whether the next window, which is measured at once, decides on the verdict."""
        return self._state is not None and self._detector.is_undecided(self._state)

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds of the next window, in nats per token; None until the baseline has been measured."""
        if self.baseline is None:
            return None
        return self._detector.thresholds(self._state.run if self._state else Run(), self.baseline.mean)

    async def ensure_baseline(self) -> EntropyEstimate:
        """The baseline, which is measured on `base` if this series has none yet.

        Its windows are pooled probe by probe, so that the interval does not take three answers to one prompt for three
        independent prompts.

        Raises:
            EngineError: The engine could not be sampled; nothing was stored.
            BadInputError: The base model's entropy on these probes is 0, so there is nothing to compare with.
        """
        if self.baseline is not None:  # whatever is being measured meanwhile
            return self.baseline
        async with self._measuring:
            return (await self._baseline())[0]

    async def probe_options(self) -> ProbeOptions:
        """The options with which a job measures exactly what this monitor measures.

        Raises:
            EngineError: The longest answer had to be found, and the engine could not be sampled.
        """
        max_tokens = self._meter.max_tokens
        if max_tokens is None:
            async with self._measuring:
                max_tokens = await self._find_answer_length()
        shared = self._settings.model_dump(include=set(WindowOptions.model_fields))
        return ProbeOptions(**shared, max_tokens=max_tokens, digest=self._meter.probes.digest)

    async def take_window(self, source: Source = "trigger") -> Window:
        """Measures the promoted version now, records the window and updates the verdict.

        Raises:
            EngineError: The engine could not be sampled; nothing was recorded.
            NotFoundError, OutdatedWindowError: The version was unloaded or replaced during the measurement; nothing
                was recorded.
        """
        async with self._measuring:
            baseline, base_window = await self._baseline()
            version, model = self._model_of_promoted()
            if version == 0 and base_window is not None:
                measurement = base_window
            else:
                measurement = await self._measure_promoted(version, model)
            return self._record(version, measurement, source, baseline)

    async def window_now(self) -> Window:
        """A window that is measured now; whoever asks meanwhile gets the same one. Raises as `take_window`.

        One who goes away ends it for nobody else.
        """
        if self._asked is None:
            self._asked = asyncio.create_task(self.take_window())
            self._asked.add_done_callback(self._answered)
        return await asyncio.shield(self._asked)

    def _answered(self, asked: "asyncio.Task[Window]") -> None:
        self._asked = None
        if not asked.cancelled() and asked.exception() is not None:
            logger.debug("the window that was asked for failed: %s", asked.exception())

    def adopt(self, version: int, measurement: Measurement) -> None:
        """Takes the measurement with which a version passed its gates as the version's first window.

        It is called once the version is promoted and the baseline is known.
        """
        baseline = self.baseline
        assert baseline is not None
        self._record(version, measurement, "gate", baseline)

    def _record(self, version: int, measurement: Measurement, source: Source, baseline: EntropyEstimate) -> Window:
        state = self._detector.step(
            self._state, version, measurement.estimate, baseline.mean, origin=self._origin_of(version)
        )
        window = Window(
            version=version,
            source=source,
            verdict=with_signal(state.verdict, self._is_stalled(version)),
            detector=state,
            baseline=baseline.mean,
            ratio=measurement.estimate.mean / baseline.mean,
            threshold=self._detector.thresholds(state.run, baseline.mean).collapsed,
            **{name: getattr(measurement, name) for name in WindowFigures.model_fields},
        )
        self._series.append(window, measurement.tail)
        promoted = self._model_of_promoted()[0]
        if version == promoted:
            self._state = state
            if self._detector.is_undecided(state):
                self._wake_up("confirm")
            if self.on_verdict is not None:
                self.on_verdict(window)
        elif self._state is not None and self._state.version != promoted:
            self._state = None  # a version that comes back by a rollback starts without a streak
        return window

    async def measure_version(self, name: str) -> Measurement:
        """Measures any served model by its pinned name, e.g. a candidate, and records nothing; see `adopt`.

        Raises:
            EngineError: The engine could not be sampled.
        """
        async with self._measuring:
            return (await self._measure(name))[0]

    def latest_estimate(self, version: int) -> EntropyEstimate | None:
        """The newest estimate of a version's entropy.

        For version 0 it is the baseline, which pools several windows, unless that is a reference's.
        """
        if version == 0 and self._own_baseline:
            return self.baseline
        windows = self._series.last(1, version)
        return windows[0].estimate if windows else None

    def give_up_outdated(self) -> None:
        """Cancels the current window if its version is not promoted any more, so that the engine can unload it."""
        if self._window is not None and self._window[0] != self._model_of_promoted()[0]:
            self._window[1].cancel()

    def trigger(self) -> None:
        """Asks for a window now. If one is being measured, another one follows it."""
        self._wake_up("trigger")

    async def run(self) -> None:
        """Measures on schedule until cancelled. A failed measurement is logged; the next one comes on schedule."""
        source: Source = "schedule"
        while True:
            try:
                await self.take_window(source)
                self.problem = None
            except OutdatedWindowError as error:
                logger.info("%s", error)  # the swap that replaced the version asks for a window of the new one
            except (EngineError, NotFoundError, BadInputError, StateError) as error:
                self.problem = error.message
                logger.warning(
                    "the entropy window failed; the next one comes in %.0f s or when triggered: %s",
                    self._pause_s(),
                    error,
                )
            source = await self._next_occasion()

    async def _next_occasion(self) -> Source:
        pause_s = self._pause_s()
        self.next_at = time.time() + pause_s
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return "schedule"
        finally:
            self.next_at = None
        self._wake.clear()
        return self._wake_source

    def _pause_s(self) -> float:
        # The fastest of the last windows counts: a window that shared the engine with clients took longer than it cost.
        seconds = [window.seconds for window in self._series.last(PACE_WINDOWS)]
        return self._settings.pause_after(min(seconds, default=0.0))

    def _wake_up(self, source: Source) -> None:
        self._wake_source = source
        self._wake.set()

    async def _measure_promoted(self, version: int, model: str) -> Measurement:
        task = asyncio.create_task(self._measure(model))
        self._window = version, task
        try:
            await asyncio.wait({task})
            if task.cancelled():
                raise OutdatedWindowError(f"{model} was replaced while its entropy was being measured")
            return task.result()[0]
        finally:
            self._window = None
            task.cancel()

    async def _measure(self, model: str, windows: int = 1) -> list[Measurement]:
        """Measures windows on a model, all at once.

        One window after the other would leave the engine half idle during the last answers of each.
        """
        await self._find_answer_length()
        self._meter.tail_model = self._series.tail_moments().fit()
        of = windows * len(self._meter.probes)
        self.progress = MeasurementProgress(model=model, done=0, of=of)
        answered = itertools.count(1)

        def on_sample() -> None:
            self.progress = MeasurementProgress(model=model, done=next(answered), of=of)

        began = time.monotonic()
        seeds = [secrets.randbelow(2**32) for _ in range(windows)]
        tasks = [asyncio.create_task(self._meter.measure(model, seed=seed, on_sample=on_sample)) for seed in seeds]
        try:
            measured = await asyncio.gather(*tasks)
        finally:
            self.progress = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        seconds = (time.monotonic() - began) / windows
        return [measurement.model_copy(update={"seconds": seconds}) for measurement in measured]

    async def _find_answer_length(self) -> int:
        """The longest answer, which is found and stored unless it is known."""
        found = self.max_tokens
        if found is None:
            if self._answer_length is None:
                raise RuntimeError("the meter has no longest answer, and nothing finds it")
            found = await self._answer_length.find(self._meter, BASE_MODEL_NAME, secrets.randbelow(2**32))
            self._series.save_max_tokens(found)
            logger.info("answers to probes are sampled up to %d tokens", found)
        self._meter.max_tokens = found
        return found

    async def _baseline(self) -> tuple[EntropyEstimate, Measurement | None]:
        """The baseline and, if it had to be measured, one of its windows."""
        stored = self._series.baseline()
        if stored is not None:
            return stored, None
        if not self._own_baseline:
            raise RuntimeError("the series has no baseline, and version 0 must not become its own")
        first, *others = await self._measure(BASE_MODEL_NAME, self._settings.baseline_windows)
        totals, sequences = first.totals, first.estimate.sequences
        for window in others:
            totals += window.totals
            sequences += window.estimate.sequences
        estimate = totals.interval(self._meter.confidence).model_copy(update={"sequences": sequences})
        if estimate.mean <= 0:
            raise BadInputError(
                f"the base model's entropy on the probes is {estimate.mean:.3g} nats per token, so a collapse could "
                "not be detected; set entropy.probes to prompts that it answers in more than one way",
                param="entropy.probes",
            )
        self._series.save_baseline(estimate)
        logger.info("baseline entropy %.3f [%.3f, %.3f] nats per token", estimate.mean, estimate.low, estimate.high)
        return estimate, first
