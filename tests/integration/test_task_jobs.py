"""A job of RL on each kind of task that people have, with real sampling, scoring and training."""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from reheatd.adapters.validate import validate_adapter
from reheatd.control.ledger import Ledger
from reheatd.control.rollout_adapters import RolloutAdapters
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import Job, JobResult, JobStatus, RLRequest, RLSpec
from reheatd.jobs.curves import read_curves
from reheatd.jobs.rollouts import RolloutRow, read_rollouts
from reheatd.jobs.store import JobRecord
from reheatd.names import rollout_name
from reheatd.options import ProbeOptions, TaskOptions
from tests.access import CREDENTIALS
from tests.integration.serving import serving
from tests.unit.recording_channel import RecordingChannel
from workers.tasks import run

JOB = "rl-1"
VARIES = "tests.repetition:reward"
"""A second reward, which differs between the answers of a policy with random weights, so that there is a step."""
TASKSETS = Path(__file__).parents[1] / "tasksets"
TEST = "def check(candidate):\n    assert candidate({number}) == {number} + 1\n"


def like_gsm8k(folder: Path) -> dict[str, Any]:
    rows = [
        {"question": f"Ann has {i} eggs and buys one. How many has she?", "answer": f"{i}+1={i + 1}\n#### {i + 1}"}
        for i in range(24)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return {"path": folder / "train-00000-of-00001.parquet", "rewards": {"numeric": 1.0, VARIES: 0.5}}


def like_human_eval(folder: Path) -> dict[str, Any]:
    records = [
        {
            "task_id": f"Test/{i}",
            "prompt": f'def next_of_{i}(number):\n    """The number after {i}."""\n',
            "canonical_solution": "    return number + 1\n",
            "entry_point": f"next_of_{i}",
            "test": TEST.format(number=i),
        }
        for i in range(24)
    ]
    (folder / "human-eval.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"path": folder / "human-eval.jsonl", "rewards": {"unit_tests": 1.0, VARIES: 0.5}}


def of_reasoning_gym(folder: Path) -> dict[str, Any]:
    return {
        "path": Path("reasoning_gym:chain_sum"),
        "arguments": {"size": 24, "min_terms": 2, "max_terms": 2},
        "rewards": {"reasoning_gym": 1.0, VARIES: 0.5},
    }


def of_verifiers(folder: Path) -> dict[str, Any]:
    return {
        "path": Path("verifiers:shout-v1"),
        "arguments": {"limit": 24},
        "rewards": {"verifiers": 1.0, VARIES: 0.5},
    }


def train(
    engine: str,
    model: Path,
    folder: Path,
    task: dict[str, Any],
    channel: RecordingChannel | None = None,
    **options: Any,
) -> tuple[RLSpec, JobResult]:
    """Runs a job as its worker does, while the gateway serves it.

    Args:
        channel: What the job reports to.
        options: Those of RL; default: one step.
    """
    channel = channel or RecordingChannel()
    job = Job(
        job_id=JOB,
        kind="rl",
        status=JobStatus.RUNNING,
        trigger="manual",
        created_at=time.time(),
        parent_version=0,
        request=RLRequest(),
    )

    record = JobRecord(job=job)

    def routes(slots: AdapterSlots, db: sqlite3.Connection) -> list[Route]:
        rollouts = RolloutAdapters(slots, Ledger(db), lambda adapter: validate_adapter(adapter, model, max_rank=16))

        async def load(request: Request) -> JSONResponse:
            asked = await request.json()
            return JSONResponse({"model": await rollouts.load(record, Path(asked["path"]), asked["step"])})

        return [Route(f"/reheatd/v1/jobs/{JOB}/rollout-adapter", load, methods=["POST"])]

    async def work() -> tuple[RLSpec, JobResult]:
        async with serving(engine, folder, more=routes) as served:
            spec = RLSpec(
                job_id=JOB,
                parent_version=0,
                parent_adapter=None,
                model_path=model,
                gateway_url=served.url,
                output_dir=folder / "job",
                task=TaskOptions(eval_count=4, eval_samples=1, eval_max_tokens=16, **task),
                probes=ProbeOptions(probe_count=4, max_tokens=8),
                report_rollouts=2,
                **{"steps": 1, "prompts_per_step": 2, "max_tokens": 16, **options},
            )
            spec.output_dir.mkdir()
            record.spec = spec
            return spec, await asyncio.to_thread(run, spec, channel, CREDENTIALS.of(JOB, 1))

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("make", "asks"),
    [
        (like_gsm8k, "How many has she?"),
        (like_human_eval, "def next_of_"),
        (of_reasoning_gym, "arithmetic"),
        (of_verifiers, "Shout word"),
    ],
)
def test_a_job_trains_on_the_task(
    make: Callable[[Path], dict[str, Any]],
    asks: str,
    engine: str,
    tiny_policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TASKSETS), os.environ["PYTHONPATH"]]))
    task = make(tmp_path)
    spec, result = train(engine, tiny_policy, tmp_path, task)
    assert (result.steps, result.updates) == (1, 1)
    assert (result.adapter_dir / "adapter_model.safetensors").is_file()
    assert result.accuracy_before.problems == result.accuracy_after.problems == 4
    metrics = result.metrics
    first, second = (metrics[f"reward_{name}"] for name in task["rewards"])
    assert 0 <= first <= 1 and 0 < second < 1 and metrics["reward"] == pytest.approx(first + 0.5 * second)
    assert [metrics[f"verifier_{count}"] for count in ("timeouts", "crashes", "failures")] == [0, 0, 0]
    assert asks in spec.rollouts_file.read_text()
    rows = read_rollouts(spec.rollouts_file)
    assert len(rows) >= spec.group_size and any(row.advantage is not None for row in rows)
    for row in rows:
        check_record(row, task["rewards"])


def check_record(row: RolloutRow, rewards: dict[str, float]) -> None:
    """Checks that a rollout of a real job is kept with its rewards and with the figures of its tokens."""
    assert row.by_token is not None and row.reward is not None
    assert {part.name: part.weight for part in row.rewards} == rewards
    assert sum(part.weight * part.value for part in row.rewards) == pytest.approx(row.reward)
    said = {part.name: part.said for part in row.rewards}
    assert "numeric" not in said or str(said["numeric"]).startswith("it states")
    assert len(row.by_token.texts) == len(row.by_token.logprobs) == row.tokens and row.by_token.left_out == 0
    assert sum(row.by_token.logprobs) / row.tokens == pytest.approx(row.mean_logprob, abs=1e-3)
    assert "".join(row.by_token.texts).startswith(row.completion[:4].rstrip("\N{REPLACEMENT CHARACTER}"))
    # Training knows the entropies of what it learns from; the policy has random weights and 2 to 3 nats.
    if row.advantage is None:
        assert row.by_token.entropies is None
    else:
        assert row.by_token.entropies is not None and len(row.by_token.entropies) == row.tokens
        assert 0.5 < sum(row.by_token.entropies) / row.tokens < 5


def test_the_next_rollouts_are_sampled_while_a_step_trains(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    channel = RecordingChannel()
    task = like_gsm8k(tmp_path)
    spec, result = train(engine, tiny_policy, tmp_path, task, channel, steps=4, staleness=1, learning_rate=0.01)
    assert (result.steps, result.updates) == (4, 4)
    models = [{row.model for row in read_rollouts(spec.rollouts_file, step=step)} for step in range(4)]
    assert models == [{"base"}, {"base"}, {rollout_name(JOB, 1, 1)}, {rollout_name(JOB, 1, 2)}]
    reports = [(phase, step) for phase, step, *_ in channel.sent]
    for step in (1, 2, 3):
        assert reports.index(("sampling", step)) < reports.index(("training", step))
    # The weights come from what the engine says of a policy that is a step older.
    gaps = [point.metrics["logprob_gap"] for point in read_curves(spec.curves_file) if "logprob_gap" in point.metrics]
    assert gaps[0] < 0.05 and min(gaps[1:]) > gaps[0]


def test_a_gold_that_cannot_be_used_ends_the_job_before_anything_is_sampled(
    engine: str, tiny_policy: Path, tmp_path: Path
) -> None:
    lines = [{"problem": f"What is {i} + 1?", "solution": f"\\boxed{{{i + 1}}}"} for i in range(24)]
    lines[7]["solution"] = r"\boxed{\frac{7}{}"
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(
        BadInputError, match=r"task\.jsonl, line 8: .* is neither a number nor an expression in LaTeX, so"
    ):
        train(engine, tiny_policy, tmp_path, {"path": tmp_path / "task.jsonl"})
    assert [file.name for file in (tmp_path / "job").iterdir()] == []
