"""The reference's entropy becomes the baseline, and its answers are kept; then its engine is gone."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from reheatd.config import load_settings
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.database import connect
from reheatd.engine.client import Sample
from reheatd.engine.launch import EngineCommand
from reheatd.entropy.answer_length import AnswerLength
from reheatd.entropy.probes import ProbeSet
from reheatd.entropy.series import EntropySeries
from reheatd.errors import EngineError
from reheatd.jobs.rollout_length import RolloutLength
from reheatd.process.supervisor import Supervisor
from reheatd.reference import measurement
from reheatd.reference.answers import ReferenceAnswers
from reheatd.reference.measurement import ReferenceMeasurement
from reheatd.reference.questions import Questions
from reheatd.task_data import Problem, TaskData
from tests.unit.entropy_support import NOISE, SETTINGS, SimulatedEngine, exact_entropy, make_meter


class SimulatedClient(SimulatedEngine):
    """A client of the engine that was started, which is a process that does nothing."""

    started: list[list[str]]
    problem_failure: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.longest: list[int] = []
        """Longest answer of each question."""

    async def max_model_len(self, model: str) -> int:
        return MAX_MODEL_LEN

    async def render(self, model: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return [1] * (MAX_MODEL_LEN - ROOM)

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        if messages[0]["content"] not in QUESTIONS:
            return await super().chat(model, messages, **options)
        if self.problem_failure is not None:
            raise self.problem_failure
        if options.get("n", 1) == 1:  # it decides how long answers are
            assert options["max_tokens"] == ROOM and "top_p" not in options
            return [Sample([1], [2] * 100, "", [-1.0] * 100, [], "stop")]
        assert (options["n"], options["temperature"], options["top_p"]) == (2, 1.0, 0.7)
        self.longest.append(options["max_tokens"])
        texts = (f"{messages[0]['content']} {number}" for number in range(options["n"]))
        return [
            Sample(prompt_ids=[1], token_ids=[2], text=t, logprobs=[-1], tokens=[], finish_reason="stop") for t in texts
        ]

    async def __aenter__(self) -> "SimulatedClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def wait_ready(self, timeout_s: float) -> None:
        self.started = [process.cmdline() for process in children()]


QUESTIONS = ("What is 1 + 1?", "What is 1 + 2?", "What is 1 + 3?")
PROBLEMS = [Problem([{"role": "user", "content": question}], "2") for question in QUESTIONS]
MAX_MODEL_LEN, ROOM = 1024, 1000


def children() -> set[psutil.Process]:
    """The processes that run below this one."""
    return set(psutil.Process().children(recursive=True))


def measurement_in(
    folder: Path, problems: list[Problem] = PROBLEMS, eval_max_tokens: int | None = 9
) -> ReferenceMeasurement:
    tables = {
        "policy": {"max_model_len": MAX_MODEL_LEN},
        "task": {"eval_samples": 2, "eval_max_tokens": eval_max_tokens},
    }
    settings = load_settings(None, {"data_dir": folder, **tables}).model_copy(update={"entropy": SETTINGS})
    db = connect(folder / "reheatd.sqlite3")
    lengths = RolloutLengths(db, "digest of the policy", settings.policy)
    return ReferenceMeasurement(
        settings,
        "cpu",
        None,
        folder / "base",
        folder / "policy",
        EntropySeries(db, "key"),
        lambda _: make_meter(SimulatedClient()),
        AnswerLength(SETTINGS.window_tokens, max_model_len=1024),
        Questions(settings, "digest", TaskData(PROBLEMS, problems, []), lengths),
    )


def measure(
    folder: Path, client: SimulatedClient, monkeypatch: pytest.MonkeyPatch, eval_max_tokens: int | None = 9
) -> ReferenceMeasurement:
    """Runs the measurement of a reference with an engine that is `client`; its process must be gone afterwards."""

    def command(settings: Any, model: Path, port: int, device: str, **_: Any) -> EngineCommand:
        return EngineCommand([sys.executable, "-c", "import time; time.sleep(600)", str(model)], {})

    monkeypatch.setattr(measurement, "engine_command", command)
    monkeypatch.setattr(measurement, "EngineClient", lambda url, **_: client)
    asked = replace(measurement_in(folder, eval_max_tokens=eval_max_tokens), meter_of=lambda _: make_meter(client))
    others = children()  # the engine that tests of this process share
    try:
        asyncio.run(asked.run(Supervisor(asked.settings.logs_dir)))
    finally:
        assert children() <= others
    command_line = [str(asked.reference), "--tokenizer", str(asked.policy)]
    assert any(line[-3:] == command_line for line in client.started)
    return asked


def test_the_reference_answers_the_policy_s_prompts_and_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not measurement_in(tmp_path).is_known
    client = SimulatedClient()
    baseline = measure(tmp_path, client, monkeypatch).series.baseline()
    assert baseline is not None and baseline.mean == pytest.approx(exact_entropy(1.0), abs=NOISE)
    assert baseline.sequences == SETTINGS.baseline_windows * SETTINGS.probe_count
    stored = ReferenceAnswers.read(tmp_path / "reference-answers.json")
    assert stored is not None
    assert stored.texts == [[f"{question} 0", f"{question} 1"] for question in QUESTIONS]
    assert client.longest == [9, 9, 9]
    assert measurement_in(tmp_path).is_known
    assert not measurement_in(tmp_path, PROBLEMS[:2]).is_known  # the task has changed


def test_the_reference_decides_how_long_answers_are_if_no_job_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimulatedClient()
    asked = measure(tmp_path, client, monkeypatch, eval_max_tokens=None).questions
    key = asked.key()
    assert key is not None and key.max_tokens == 128 and client.longest == [128, 128, 128]
    assert measurement_in(tmp_path, eval_max_tokens=None).is_known
    assert not measurement_in(tmp_path, eval_max_tokens=9).is_known  # those answers are as long as others
    task, probes = asked.settings.task, asked.data.probes
    assert asked.lengths.known(task, ProbeSet.of(probes).digest) == 128  # the jobs have it, too


def test_the_reference_answers_with_the_length_that_a_job_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measurement_in(tmp_path, eval_max_tokens=None).questions
    found = RolloutLength(tokens=80, max_model_len=MAX_MODEL_LEN, answers=64, unended=0)
    asked.lengths.save(asked.settings.task, ProbeSet.of([]).digest, found)
    client = SimulatedClient()
    measure(tmp_path, client, monkeypatch, eval_max_tokens=None)
    assert client.longest == [80, 80, 80]


def test_a_reference_that_cannot_be_sampled_leaves_no_engine_and_no_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimulatedClient()
    client.failures = [EngineError("out of memory")]
    with pytest.raises(EngineError, match="out of memory"):
        measure(tmp_path, client, monkeypatch)
    assert measurement_in(tmp_path).series.baseline() is None


def test_a_reference_that_did_not_answer_all_problems_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimulatedClient()
    client.problem_failure = EngineError("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        measure(tmp_path, client, monkeypatch)
    assert not measurement_in(tmp_path).is_known
    assert ReferenceAnswers.read(tmp_path / "reference-answers.json") is None
    measure(tmp_path, SimulatedClient(), monkeypatch)
    assert measurement_in(tmp_path).is_known


def test_answers_of_another_version_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(tmp_path, SimulatedClient(), monkeypatch)
    (tmp_path / "reference-answers.json").write_text('{"texts": []}')
    assert not measurement_in(tmp_path).is_known
