"""What the daemon does with the length of rollouts that a worker found: later jobs on the task have the same."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.database import connect
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatSpec, RLRequest, TrainingSpec
from reheatd.jobs.rollout_length import RolloutLength
from reheatd.options import TaskOptions
from tests.known_settings import known_settings
from tests.unit.control_figures import accuracy
from tests.unit.control_support import REHEAT, World, live, lost

pytestmark = pytest.mark.usefixtures("impatient")

FOUND = RolloutLength(tokens=640, max_model_len=1024, answers=64, unended=1)


def lengths_of(spec: TrainingSpec) -> tuple[Any, Any]:
    return spec.max_tokens, spec.task.eval_max_tokens


async def train_with(world: World, spec: TrainingSpec, length: RolloutLength | None) -> None:
    """The worker finds a length and trains."""
    events = [JobEvent(kind="started"), JobEvent(kind="progress", phase="preparing", length=length)]
    done = JobEvent(kind="succeeded", result=world.result(spec, accuracy_after=accuracy(24)))
    await world.dispatcher.report(spec.job_id, *events, done)
    await world.until_status(spec.job_id, JobStatus.SUCCEEDED)


def test_the_first_job_s_length_is_that_of_later_jobs_and_their_answers(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.controller.submit(RLRequest())
        first = await world.until_submitted()
        assert lengths_of(first) == ("auto", None)
        await train_with(world, first, FOUND)
        lineage = world.store.get(1).lineage
        assert lineage is not None
        assert (lineage.spec["max_tokens"], lineage.spec["task"]["eval_max_tokens"]) == (640, 640)
        await world.restart()
        world.controller.submit(REHEAT)
        second = await world.until_submitted(2)
        assert isinstance(second, ReheatSpec) and lengths_of(second) == (640, 640)
        assert second.parent_accuracy == accuracy(24)  # measured with answers of this length
        await train_with(world, second, None)
        world.controller.submit(RLRequest(max_tokens=96))
        own = await world.until_submitted(3)
        assert lengths_of(own) == (96, 96) and own.parent_accuracy is None

    live(World(tmp_path), story)


def test_an_accuracy_is_not_reused_while_the_length_of_answers_is_open(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for count in (1, 2):
            world.controller.submit(RLRequest())
            spec = await world.until_submitted(count)
            assert lengths_of(spec) == ("auto", None)
            assert spec.parent_accuracy is None and spec.base_accuracy is None
            await train_with(world, spec, None)  # a worker of another version, which tells nobody

    live(World(tmp_path), story)


def test_a_job_that_is_resumed_or_follows_a_failed_one_keeps_the_length(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(RLRequest())
        await world.until_submitted()
        told = JobEvent(kind="progress", length=FOUND)
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"), told, lost(job))
        again = await world.until_submitted(2)
        assert world.dispatcher.attempts == [1, 2] and lengths_of(again) == (640, 640)
        await world.dispatcher.report(job.job_id, JobEvent(kind="failed", error="out of memory"))
        await world.until_status(job.job_id, JobStatus.FAILED)
        world.controller.submit(RLRequest())
        assert lengths_of(await world.until_submitted(3)) == (640, 640)

    live(World(tmp_path), story)


def test_another_task_policy_or_context_has_a_length_of_its_own(tmp_path: Path) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    task, policy = TaskOptions(path=Path("task.jsonl")), known_settings().policy
    RolloutLengths(db, "digest", policy).save(task, "these prompts", FOUND)

    def known(task: TaskOptions = task, probes: str = "these prompts", digest: str = "digest", **changed: Any) -> Any:
        return RolloutLengths(db, digest, policy.model_copy(update=changed)).known(task, probes)

    assert known() == 640
    same = task.model_copy(update={"path": Path("task.jsonl").resolve(), "eval_samples": 3, "eval_max_tokens": 9})
    assert known(same) == 640
    RolloutLengths(db, "digest", policy).save(same, "these prompts", FOUND.model_copy(update={"tokens": 80}))
    assert known() == 640  # what was found first stays
    assert known(task.model_copy(update={"path": Path("other.jsonl")})) is None
    assert known(task.model_copy(update={"columns": {"prompt": "query"}})) is None
    assert known(probes="the file has changed") is None
    assert known(digest="another") is None
    assert known(max_model_len=2048) is None
    assert known(chat_template_kwargs={"enable_thinking": False}) is None
    db.close()
