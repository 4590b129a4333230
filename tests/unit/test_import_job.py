"""What the worker does with an import: it measures the adapter that was sent, and proves that very adapter."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from reheatd.entropy.probes import ProbeSet, load_probes
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ImportSpec
from reheatd.options import ProbeOptions, TaskOptions, WindowOptions
from reheatd.tasks.problem import Problem
from tests.random_adapter import random_adapter
from tests.unit.recording_channel import RecordingChannel
from workers import tasks
from workers.policy import Policy
from workers.sampling.in_process import ChatCodec, InProcessSampler
from workers.sampling.rollout import Batch, Rollout


class LocalSampler:
    """Samples from the adapter that is loaded, as the served engine would."""

    model = "job-test.1-0"

    def __init__(
        self,
        spec: ImportSpec,
        probes: ProbeSet,
        on_progress: Callable[[int, int], None],
        on_wait: Callable[[], None],
        *,
        credential: str | None,
    ) -> None:
        self._spec, self._probes = spec, probes
        self.probed: list[Rollout] = []

    def __enter__(self) -> "LocalSampler":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def check_chats(self, problems: Sequence[Problem]) -> None:
        assert problems

    def load(self, folder: Path, step: int) -> None:
        policy = Policy.load(self._spec.model_path, self._spec.lora, folder, dtype="float32")
        self._sampler = InProcessSampler(policy, ChatCodec(policy), [*map(list, self._probes.probes)], probe_tokens=8)

    @contextmanager
    def as_base(self) -> Iterator[InProcessSampler]:
        policy = Policy.load(self._spec.model_path, self._spec.lora, dtype="float32")
        yield InProcessSampler(policy, ChatCodec(policy), [])

    def measure_entropy(self, seed: int) -> Any:
        return self._sampler.measure_entropy(seed)

    def sample_all(self, batches: Sequence[Batch]) -> list[list[list[Rollout]]]:
        return [self._sampler.sample(**vars(batch)) for batch in batches]


def import_spec(tmp_path: Path, tiny_policy: Path, adapter: Path, *, digest: str) -> ImportSpec:
    return ImportSpec(
        job_id="test",
        parent_version=0,
        parent_adapter=None,
        model_path=tiny_policy,
        gateway_url="http://127.0.0.1:1",
        output_dir=tmp_path,
        adapter=adapter,
        source="run-7",
        trained_on=None,
        task=TaskOptions(eval_count=2, eval_samples=2, eval_max_tokens=4),
        probes=ProbeOptions(probe_count=4, max_tokens=8, digest=digest),
        report_rollouts=4,
    )


def test_a_worker_whose_probes_are_not_the_daemons_says_so(tmp_path: Path, tiny_policy: Path) -> None:
    spec = import_spec(tmp_path, tiny_policy, tmp_path, digest="of another file")
    with pytest.raises(BadInputError, match="are not those that the daemon read") as refused:
        tasks.run_import(spec, RecordingChannel())
    assert refused.value.param == "task.path"


def test_an_import_is_measured_and_gets_proof_items(
    tmp_path: Path, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ServedSampler", LocalSampler)
    monkeypatch.setenv(tasks.DTYPE_ENV, "float32")
    adapter = random_adapter(tmp_path / "imported", tiny_policy, rank=4)
    measuring = WindowOptions(probe_count=4)
    digest = load_probes(TaskOptions(eval_count=2), measuring).digest
    spec = import_spec(tmp_path, tiny_policy, adapter, digest=digest)
    channel = RecordingChannel()
    result = tasks.run_import(spec, channel)
    assert result.entropy.mean > 0 and result.accuracy.problems == 2
    assert result.accuracy.samples == 2
    base = result.accuracy_base
    assert base is not None and base.problem_set == result.accuracy.problem_set and base.samples == 2
    assert len(result.proof) == 8 and {"preparing", "measuring", "evaluating"} <= {phase for phase, *_ in channel.sent}
    policy = Policy.load(tiny_policy, spec.lora, adapter, dtype="float32")
    sequences = [(item.prompt_ids, item.completion_ids) for item in result.proof]
    torch.testing.assert_close(policy.logprobs(sequences), [item.logprobs for item in result.proof])
    with policy.as_base():
        torch.testing.assert_close(policy.logprobs(sequences), [item.base_logprobs for item in result.proof])
    assert any(item.logprobs != item.base_logprobs for item in result.proof)
