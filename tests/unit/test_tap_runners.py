"""What the tap counts of the steps that vLLM's model runners take.

The runners are acted here. The real ones are in `tests/integration/test_engine_tap.py`; this is for what they do too
rarely to wait for.
"""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reheatd.entropy.live import tap_socket
from reheatd.tap import sums
from reheatd.tap.moments import Moments
from reheatd.tap.row_entropy import RowEntropies
from reheatd.tap.runner_v1 import BatchRows
from reheatd.tap.runner_v2 import SlotRows
from reheatd.tap.seal import KEY_ENV
from reheatd.tap.wire import ADDRESS_ENV, tags
from tests.tap_ear import KEY, TapEar

PROMPT = 5
EOS = 7
SLOTS = 4
GENERATOR = torch.Generator().manual_seed(0)


def request(name: str, **params: Any) -> Any:
    """A request that begins, as the scheduler tells its runner."""
    defaults = {"stop_token_ids": [], "eos_token_id": EOS, "extra_args": tags("v1", "live")}
    penalties = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
    return SimpleNamespace(req_id=name, sampling_params=SimpleNamespace(**{**defaults, **penalties, **params}))


class Acted:
    """Steps of a runner: what the scheduler says, then a row of logits for each request in the step."""

    def tell(self, *, new: Sequence[Any] = (), ended: Sequence[str] = ()) -> None:
        self.take(SimpleNamespace(scheduled_new_reqs=list(new), finished_req_ids=set(ended)))

    def decode(self, *names: str, position: int = 0, token: int = 1, complete: bool = True) -> list[float]:
        """Decodes a token of each and returns the entropies.

        Args:
            position: Of the tokens in their sequences.
            token: What they are computed from.
            complete: Whether the prompts are; if not, the runner samples and discards.
        """
        logits_BV = torch.randn(len(names), 50, generator=GENERATOR)
        self.show(logits_BV, list(names), position, token, complete)
        return RowEntropies()(logits_BV).tolist()

    def take(self, scheduled: Any) -> None:
        raise NotImplementedError

    def show(self, logits_BV: torch.Tensor, names: list[str], position: int, token: int, complete: bool) -> None:
        raise NotImplementedError


class ActedV1(Acted):
    def __init__(self) -> None:
        class GPUModelRunner:
            def __init__(self) -> None:
                self.requests: dict[str, Any] = {}
                self.input_batch = SimpleNamespace(req_ids=[])

            def _update_states(self, scheduled: Any) -> None:
                for name in scheduled.finished_req_ids:
                    self.requests.pop(name, None)
                for new in scheduled.scheduled_new_reqs:
                    self.requests.setdefault(new.req_id, SimpleNamespace(output_token_ids=[]))

        self._rows = BatchRows(GPUModelRunner)
        self._runner = GPUModelRunner()

    def take(self, scheduled: Any) -> None:
        self._runner._update_states(scheduled)

    def show(self, logits_BV: torch.Tensor, names: list[str], position: int, token: int, complete: bool) -> None:
        self._runner.input_batch.req_ids = names
        for name in names:
            del self._runner.requests[name].output_token_ids[position:]
        self._rows.see(logits_BV)
        for name in names if complete else ():
            self._runner.requests[name].output_token_ids.append(token)


class ActedV2(Acted):
    def __init__(self) -> None:
        class GPUModelRunner:
            def __init__(self) -> None:
                self.req_states = SimpleNamespace(index_to_req_id={})

            def finish_requests(self, scheduled: Any) -> None:
                slots = self.req_states.index_to_req_id
                for slot, name in list(slots.items()):
                    if name in scheduled.finished_req_ids:
                        del slots[slot]

        lengths = SimpleNamespace(np=np.full(SLOTS, PROMPT))
        state: Any = SimpleNamespace(device=torch.device("cpu"), prompt_len=lengths, prefill_len=lengths)
        self.rows = SlotRows(GPUModelRunner, state)
        self._runner = GPUModelRunner()

    def take(self, scheduled: Any) -> None:
        self._runner.finish_requests(scheduled)
        slots = self._runner.req_states.index_to_req_id
        for new in scheduled.scheduled_new_reqs:
            free = next(slot for slot in range(SLOTS) if slot not in slots)
            slots[free] = new.req_id

    def preempt(self, name: str) -> None:
        """Takes the slot away from a request that goes on later; to the runner it is new then."""
        slots = self._runner.req_states.index_to_req_id
        del slots[next(slot for slot, found in slots.items() if found == name)]

    def show(self, logits_BV: torch.Tensor, names: list[str], position: int, token: int, complete: bool) -> None:
        slot_of = {name: slot for slot, name in self._runner.req_states.index_to_req_id.items()}
        length = PROMPT + position if complete else PROMPT - 1
        step: Any = SimpleNamespace(
            idx_mapping_np=np.array([slot_of[name] for name in names]),
            seq_lens_upper_bound_np=np.full(len(names), length),
            input_ids=torch.full((len(names),), token),
        )
        self.rows.see(logits_BV, step)


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Iterator[TapEar]:
    with tap_socket("127.0.0.1:0") as listener:
        monkeypatch.setenv(ADDRESS_ENV, "{}:{}".format(*listener.getsockname()))
        monkeypatch.setenv(KEY_ENV, KEY)
        monkeypatch.setattr(sums, "SEND_EVERY_S", 0.01)
        yield TapEar(listener)


@pytest.fixture(params=[ActedV1, ActedV2])
def runner(request: pytest.FixtureRequest, ear: TapEar) -> Acted:
    return request.param()


def expect(ear: TapEar, *sequences: list[float], version: str = "v1") -> None:
    """The tap reports these sequences; anything else it counted before would be in the same sums."""
    expected = Moments()
    for sequence in sequences:
        expected.add(sequence)
    found = ear.sums_of(version, expected.tokens)
    assert (found.sequences, found.tokens) == (expected.sequences, expected.tokens)
    assert found.entropy == pytest.approx(expected.entropy)
    assert found.squared_entropy == pytest.approx(expected.squared_entropy)
    assert found.position_tokens == expected.position_tokens


def test_a_sequence_counts_when_the_scheduler_says_that_it_has_ended(runner: Acted, ear: TapEar) -> None:
    runner.tell(new=[request("long"), request("short")])
    first = runner.decode("long", "short")
    runner.tell()
    second = runner.decode("long", "short", position=1)
    runner.tell(ended=["short"])
    short = [first[1], second[1]]
    expect(ear, short)
    long = [first[0], second[0]]
    for position in range(2, 40):
        runner.tell()
        long += runner.decode("long", position=position)
        expect(ear, short)
    runner.tell(ended=["long"])
    expect(ear, short, long)


def test_prompts_that_are_not_complete_and_requests_that_nobody_tagged_do_not_count(runner: Acted, ear: TapEar) -> None:
    runner.tell(new=[request("tagged"), request("untagged", extra_args=None)])
    runner.decode("untagged", "tagged", complete=False)
    runner.tell()
    kept = runner.decode("untagged", "tagged")[1]
    runner.tell(ended=["untagged", "tagged", "never heard of"])
    expect(ear, [kept])


def test_what_a_preemption_threw_away_is_replaced(runner: Acted, ear: TapEar) -> None:
    again = request("preempted")
    runner.tell(new=[again])
    first = runner.decode("preempted")
    runner.tell()
    runner.decode("preempted", position=1)
    if isinstance(runner, ActedV2):
        runner.preempt("preempted")
        runner.tell(new=[request("other")])
        runner.decode("other")
        runner.tell(new=[again])
    else:
        runner.tell()
    second = runner.decode("preempted", position=1)
    runner.tell()
    third = runner.decode("preempted", position=2)
    runner.tell(ended=["preempted"])
    expect(ear, first + second + third)


def test_a_request_that_is_aborted_before_its_first_token_is_no_sequence(runner: Acted, ear: TapEar) -> None:
    runner.tell(new=[request("aborted"), request("served")])
    runner.tell(ended=["aborted"])
    served = runner.decode("served")
    runner.tell(ended=["served"])
    expect(ear, served)


def test_the_v2_runner_computes_rows_past_the_end(ear: TapEar) -> None:
    runner = ActedV2()
    runner.tell(new=[request("stopped", stop_token_ids=[3])])
    first = runner.decode("stopped", token=3)  # the prompt's last token ends nothing
    second = runner.decode("stopped", position=1)
    for stop in (3, EOS):
        runner.decode("stopped", position=2, token=stop)
    runner.tell(ended=["stopped"])
    expect(ear, first + second)


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_the_v2_runner_shows_logits_after_penalties_which_are_left_out(ear: TapEar, penalty: str) -> None:
    runner = ActedV2()
    penalised = request("penalised", **{penalty: 1.5})
    assert not runner.rows.counts(penalised.sampling_params)
    runner.tell(new=[penalised, request("plain")])
    plain = runner.decode("penalised", "plain")[1]
    runner.tell(ended=["penalised", "plain"])
    expect(ear, [plain])


def test_another_vllm_is_refused_by_name(ear: TapEar) -> None:
    with pytest.raises(RuntimeError, match=r"Stranger has no _update_states; .*entropy\.tap"):
        BatchRows(type("Stranger", (), {}))
