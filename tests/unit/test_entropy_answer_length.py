"""`entropy.max_tokens = "auto"`: as long as the base policy writes, within a budget, and found once."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reheatd.database import connect
from reheatd.engine.client import Sample
from reheatd.entropy.answer_length import LEAST_TOKENS, AnswerLength
from reheatd.entropy.detector import CollapseDetector
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.series import EntropySeries
from reheatd.errors import EngineError
from tests.unit.entropy_support import SETTINGS, SimulatedEngine, make_meter

PROMPT_TOKENS = 30
COUNT = SETTINGS.probe_count


class WritingEngine(SimulatedEngine):
    """Its answers end by themselves: those to the i-th of the probes that are in flight at once after `lengths[i]`."""

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__()
        self.lengths = list(lengths)
        self.longest: list[int] = []

    async def chat(  # type: ignore[override]
        self, model: str, messages: Sequence[Mapping[str, Any]], *, max_tokens: int, **options: Any
    ) -> list[Sample]:
        length = min(self.lengths[len(self.longest) % len(self.lengths)], max_tokens)
        self.longest.append(max_tokens)
        (sample,) = await super().chat(model, messages, max_tokens=length, **options)
        return [dataclasses.replace(sample, prompt_ids=[1] * PROMPT_TOKENS)]


def found(lengths: Sequence[int], *, window_tokens: int = 16384, max_model_len: int = 1024) -> int:
    rule = AnswerLength(window_tokens, max_model_len)
    return asyncio.run(rule.find(make_meter(WritingEngine(lengths), max_tokens=None), "base", 3))


def test_it_is_the_90th_percentile_of_the_answers() -> None:
    lengths = [*range(100, 100 + COUNT - 4), *[400] * 4]
    assert found(lengths) == 400  # 36 of 40 answers end before
    assert found([*lengths[:-4], 390, 391, 392, 400]) == 390


@pytest.mark.parametrize(
    ("limits", "longest"),
    [
        ({}, 16384 // COUNT),
        ({"window_tokens": 4000}, 100),
        ({"max_model_len": 200}, 200 - PROMPT_TOKENS),
        ({"max_model_len": 60}, 60 - PROMPT_TOKENS),
    ],
)
def test_answers_that_never_end_stop_at_the_budget_and_in_the_model(limits: dict[str, int], longest: int) -> None:
    assert found([10_000] * COUNT, **limits) == longest


def test_brief_answers_leave_room_for_a_policy_that_learns_to_write_longer() -> None:
    assert found([5] * COUNT) == LEAST_TOKENS


def test_the_monitor_finds_it_once_and_jobs_measure_with_it(tmp_path: Path) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    engine = WritingEngine([70] * COUNT)
    settings = SETTINGS.model_copy(update={"max_tokens": "auto"})

    def monitor() -> EntropyMonitor:
        return EntropyMonitor(
            make_meter(engine, max_tokens=None),
            EntropySeries(db, "key"),
            CollapseDetector(settings),
            settings,
            lambda: (0, "base"),
            lambda version: "base",
            lambda version: False,
            answer_length=AnswerLength(settings.window_tokens, 1024),
        )

    async def story() -> None:
        first = monitor()
        assert first.max_tokens is None
        engine.failures = [EngineError("restarting")]
        with pytest.raises(EngineError):
            await first.probe_options()
        assert first.max_tokens is None
        options = await first.probe_options()
        assert options.max_tokens == first.max_tokens == 70
        assert (options.probe_count, options.digest) == (COUNT, make_meter(engine).probes.digest)
        baseline = await first.ensure_baseline()
        assert set(engine.longest[-COUNT:]) == {70} and baseline.tokens == 2 * COUNT * 70
        asked = len(engine.longest)
        engine.lengths = [300] * COUNT  # the policy writes longer by now, and windows must stay comparable
        restarted = monitor()
        assert (await restarted.probe_options()).max_tokens == 70
        assert len(engine.longest) == asked
        assert (await restarted.take_window()).estimate.tokens == COUNT * 70

    asyncio.run(story())
    db.close()
