"""`max_tokens = "auto"`: as long as the policy answers the task, found once for all attempts at a job."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reheatd.engine.client import EngineClient, Sample
from reheatd.errors import BadInputError, EngineError
from reheatd.jobs.attempts import begin_attempt
from reheatd.jobs.contracts import ImportSpec, JobBase, ReheatSpec, RLSpec
from reheatd.jobs.open_lengths import has_open_length, with_length
from reheatd.jobs.rollout_length import LEAST_TOKENS, PROBLEMS, RolloutLength, deciding, room
from reheatd.options import RLOptions, TaskOptions
from reheatd.task_data import TaskData
from reheatd.tasks.problem import Problem
from tests.probes import task_probes
from tests.unit.recording_channel import RecordingChannel
from tests.unit.workers_support import job_fields
from workers.progress import ChannelProgress
from workers.rollout_length import with_found_length
from workers.sampling.served import ServedSampler

MAX_MODEL_LEN = 1024
PROMPT_TOKENS = 24
ROOM = MAX_MODEL_LEN - PROMPT_TOKENS


def found(lengths: Sequence[int], *, unended: int = 0, room: int = ROOM) -> int:
    return RolloutLength.of(lengths, unended, room=room, max_model_len=MAX_MODEL_LEN).tokens


def test_it_is_a_quarter_more_than_all_but_the_longest_answers() -> None:
    lengths = [100] * 60 + [160] + [900] * 3
    assert found(lengths) == 208  # 200, up to a multiple of 16
    assert found([*lengths[:60], *[900] * 4]) == ROOM  # 1,125
    assert found([64] * 64) == 80
    assert found([65] * 64) == 96


def test_brief_answers_leave_room_for_a_policy_that_learns_to_write_longer() -> None:
    assert found([5] * 64) == LEAST_TOKENS
    assert found([5] * 64, room=20) == 20


@pytest.mark.parametrize(("unended", "tokens"), [(3, 128), (4, ROOM)])
def test_answers_that_do_not_end_need_all_the_room(unended: int, tokens: int) -> None:
    lengths = [100] * (64 - unended) + [ROOM] * unended
    length = RolloutLength.of(lengths, unended, room=ROOM, max_model_len=MAX_MODEL_LEN)
    assert (length.tokens, length.is_all_room) == (tokens, tokens == ROOM)
    assert ("4 of 64 answers did not end" in length.explanation) == (unended == 4)


def problems(count: int) -> list[Problem]:
    return [
        Problem([{"role": "user", "content": str(number)}], str(number), place=f"task.jsonl, line {number + 1}")
        for number in range(count)
    ]


def test_the_same_problems_decide_in_whatever_order_they_are() -> None:
    some = problems(200)
    assert deciding(some[::-1]) == deciding(some) and len(deciding(some)) == PROBLEMS
    assert len(deciding(some[:10])) == 10


def test_the_longest_prompt_leaves_the_room_and_one_that_leaves_none_is_named() -> None:
    some = problems(3)
    assert room(some, [10, 40, 20], 100) == 60
    with pytest.raises(BadInputError, match=r"task\.jsonl, line 2: the prompt has 100 .*\.max_model_len = 100; shor"):
        room(some, [10, 100, 20], 100)


def lengths_of(spec: JobBase) -> tuple[Any, ...]:
    own = spec.max_tokens if isinstance(spec, RLSpec | ReheatSpec) else None
    return own, spec.rl.max_tokens if isinstance(spec, ReheatSpec) else None, spec.task.eval_max_tokens


@pytest.mark.parametrize(
    ("kind", "fields", "lengths"),
    [
        (RLSpec, {}, (640, None, 640)),
        (RLSpec, {"task": TaskOptions(eval_max_tokens=9)}, (640, None, 9)),
        (ReheatSpec, {}, (640, "auto", 640)),
        (ReheatSpec, {"max_tokens": 30}, (30, "auto", 640)),
        (ReheatSpec, {"remedy": "hot"}, (640, 640, 640)),
        (ReheatSpec, {"remedy": "auto", "rl": RLOptions(max_tokens=70)}, (640, 70, 640)),
        (ImportSpec, {"adapter": Path("a"), "source": "a", "trained_on": None}, (None, None, 640)),
    ],
)
def test_every_length_that_is_left_open_is_the_one_that_was_found(
    tmp_path: Path, kind: type[RLSpec], fields: dict[str, Any], lengths: tuple[Any, ...]
) -> None:
    spec = kind(**job_fields(tmp_path), **fields)
    assert has_open_length(spec)
    closed = with_length(spec, 640)
    assert lengths_of(closed) == lengths and not has_open_length(closed)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (RLSpec, {"max_tokens": 30}),  # its answers to held-out problems are as long as its rollouts
        (ReheatSpec, {"max_tokens": 30, "task": TaskOptions(eval_max_tokens=9)}),  # no remedy that is RL
        (
            ImportSpec,
            {"task": TaskOptions(eval_max_tokens=9), "adapter": Path("a"), "source": "a", "trained_on": None},
        ),
    ],
)
def test_nothing_is_found_for_lengths_that_are_given(
    tmp_path: Path, kind: type[RLSpec], fields: dict[str, Any]
) -> None:
    assert not has_open_length(kind(**job_fields(tmp_path), **fields))


class Writing(EngineClient):
    """A gateway whose policy answers with 100 tokens, or as long as it may."""

    def __init__(self, *, ends: bool = True, says: Any = MAX_MODEL_LEN) -> None:
        super().__init__("http://127.0.0.1:1")
        self.ends, self.says = ends, says
        self.longest: list[int] = []
        self.long_prompt = ""

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, limit_s: float = 0.0
    ) -> Any:
        assert (method, path) == ("GET", "/v1/models")
        return {"data": [{"id": "policy", "max_model_len": 1}, {"id": "base", "max_model_len": self.says}]}

    async def render(self, model: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return [1] * (MAX_MODEL_LEN if messages[0]["content"] == self.long_prompt else PROMPT_TOKENS)

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        assert (options["temperature"], options["top_p"]) == (1.0, 1.0)
        self.longest.append(options["max_tokens"])
        length = 100 if self.ends else options["max_tokens"]
        return [Sample([1], [2] * length, "", [-0.1] * length, [], "stop" if self.ends else "length")]


TASK = TaskData(train=problems(100), held_out=problems(4), probes=[])


def find(spec: RLSpec, gateway: Writing, monkeypatch: pytest.MonkeyPatch) -> tuple[RLSpec, RecordingChannel]:
    monkeypatch.setattr("workers.sampling.served.EngineClient", lambda *_, **__: gateway)
    channel = RecordingChannel()
    with ServedSampler(spec, task_probes(2)) as sampler:
        return with_found_length(spec, sampler, TASK, ChannelProgress(channel, 1)), channel


def test_all_attempts_at_a_job_have_the_length_that_the_first_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, gateway = RLSpec(**job_fields(tmp_path)), Writing()
    first, channel = find(begin_attempt(spec, 1), gateway, monkeypatch)
    assert (first.max_tokens, first.rollout_tokens, first.task.eval_max_tokens) == (128, 128, 128)
    assert gateway.longest == [ROOM] * PROBLEMS
    told = RolloutLength(tokens=128, max_model_len=MAX_MODEL_LEN, answers=PROBLEMS, unended=0)
    assert channel.lengths == [told]
    assert "did not end" not in caplog.text and not any("did not end" in phase for phase, *_ in channel.sent)
    other = Writing(ends=False)  # the policy has changed since
    second, channel = find(begin_attempt(spec, 2), other, monkeypatch)
    assert second.max_tokens == 128 and not other.longest
    assert channel.lengths == [told]  # if the first died before it could say so


def test_log_and_progress_say_that_answers_do_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, channel = find(begin_attempt(RLSpec(**job_fields(tmp_path)), 1), Writing(ends=False), monkeypatch)
    assert spec.max_tokens == ROOM
    says = f"rollouts of {ROOM} tokens, all that policy.max_model_len = 1024 leaves: 64 of 64 answers did not end"
    assert says in caplog.text and any(says in phase for phase, *_ in channel.sent)


def test_a_held_out_prompt_that_leaves_no_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Writing()
    gateway.long_prompt = "2"
    with pytest.raises(BadInputError, match=r"line 3: the prompt has 1024 tokens"):
        find(begin_attempt(RLSpec(**job_fields(tmp_path)), 1), gateway, monkeypatch)


@pytest.mark.parametrize("says", [None, "1024"])
def test_a_gateway_that_does_not_say_what_the_engine_takes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Any
) -> None:
    spec = RLSpec(**job_fields(tmp_path))
    with pytest.raises(EngineError, match=r"says no max_model_len of base, .*or set rl\.max_tokens") as raised:
        find(spec, Writing(says=says), monkeypatch)
    assert not raised.value.is_transient  # so that no worker waits for another answer
    assert not list(tmp_path.iterdir())
