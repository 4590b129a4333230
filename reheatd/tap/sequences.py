"""The sequences that an engine is decoding, from the step that begins one until vLLM's scheduler says it has ended.

vLLM shows its logits processors the rows of a step, but not whose they are, nor when a request ends. Its model runners
are told both before each step, by the scheduler's output, so the tap listens to the method that takes it. However long
a sequence pauses, and if it is preempted and computed again, it is one sequence.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reheatd.tap.sums import Key, TapSums
from reheatd.tap.wire import read_tags

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.core.sched.output import SchedulerOutput


@dataclass
class Sequence:
    """One that is being decoded."""

    key: Key
    stops: frozenset[int]
    """Tokens that end it."""
    entropies: list[float] = field(default_factory=list)
    """Of its tokens, nats."""

    def put(self, position: int, entropy: float) -> None:
        """Takes in the token at `position`; what a preemption threw away is decoded once more and replaced."""
        del self.entropies[position:]
        self.entropies.append(entropy)


class Sequences:
    """The sequences of tagged requests, and the sums of those that have ended.

    Args:
        leave_out: Which tagged requests are not counted, by their parameters; default: none.
    """

    def __init__(self, leave_out: "Callable[[SamplingParams], bool]" = lambda _: False) -> None:
        self._leave_out = leave_out
        self._by_request: dict[str, Sequence] = {}
        self._sums = TapSums()

    def __bool__(self) -> bool:
        return bool(self._by_request)

    def get(self, request: str | None) -> Sequence | None:
        """The sequence of a request; None if it is not counted."""
        return None if request is None else self._by_request.get(request)

    def counts(self, params: "SamplingParams") -> bool:
        """Whether a request with these parameters is counted."""
        return read_tags(params.extra_args) is not None and not self._leave_out(params)

    def step(self, scheduled: "SchedulerOutput") -> None:
        """Counts the sequences that have ended since the last step, and begins those that are new in this one."""
        for request in scheduled.finished_req_ids:
            ended = self._by_request.pop(request, None)
            if ended is not None and ended.entropies:
                self._sums.add(ended.key, ended.entropies)
        for new in scheduled.scheduled_new_reqs:
            # The V2 runner is told again of a request that was preempted, as of a new one.
            if new.sampling_params is not None and new.req_id not in self._by_request:
                self._begin(new.req_id, new.sampling_params)

    def _begin(self, request: str, params: "SamplingParams") -> None:
        key = read_tags(params.extra_args)
        if key is None or self._leave_out(params):
            return
        stops = {*(params.stop_token_ids or ())}
        if params.eos_token_id is not None:
            stops.add(params.eos_token_id)
        self._by_request[request] = Sequence(key, frozenset(stops))


def before_each_step(runner: type, method: str, listener: "Callable[[Any, SchedulerOutput], None]") -> None:
    """From now on `listener(runner, scheduler_output)` goes before every `runner.method(scheduler_output)`.

    Raises:
        RuntimeError: The runners of this vLLM have no such method.
    """
    original = getattr(runner, method, None)
    if original is None:
        raise RuntimeError(
            f"the entropy tap does not know this version of vLLM, whose {runner.__qualname__} has no {method}; "
            'install the version in the lock file (make setup), or set entropy.tap = "off"'
        )

    @functools.wraps(original)
    def told(self: Any, scheduler_output: "SchedulerOutput") -> Any:
        listener(self, scheduler_output)
        return original(self, scheduler_output)

    setattr(runner, method, told)
