"""The sequences that an engine decodes, each from the step that begins it until vLLM's scheduler says that it ended.

vLLM shows its logits processors the rows of a step, but neither the request of each row nor when a request ends. The
scheduler's output tells both to the model runner before each step, so the tap listens to the runner's method that takes
it. A sequence stays one sequence, however long it pauses and even if it is preempted and computed again.
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
    """A sequence that is being decoded."""

    key: Key
    stops: frozenset[int]
    """Tokens that end the sequence."""
    entropies: list[float] = field(default_factory=list)
    """Entropies of the sequence's tokens so far, in nats."""

    def put(self, position: int, entropy: float) -> None:
        """Takes in the token at `position`, and drops later ones, which a preemption lets be decoded again."""
        del self.entropies[position:]
        self.entropies.append(entropy)


class Sequences:
    """The sequences of tagged requests, and the sums over those that have ended.

    Args:
        leave_out: Says of a tagged request's parameters whether it is not counted; by default, all are counted.
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
        """Counts the sequences that have ended since the last step, and begins those that are new in this step."""
        for request in scheduled.finished_req_ids:
            ended = self._by_request.pop(request, None)
            if ended is not None and ended.entropies:
                self._sums.add(ended.key, ended.entropies)
        for new in scheduled.scheduled_new_reqs:
            # The V2 runner is told of a request that was preempted as if it were new.
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
    """Makes every `runner.method(scheduler_output)` call `listener(runner, scheduler_output)` first.

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
