"""Work that samples in the background, while training changes the policy."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Background(Generic[Result]):
    """Work that was begun, and whose result can be waited for."""

    future: Future[Result]
    interrupted: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context inside which the work does not wait for samples any more, but raises."""

    @classmethod
    def done(cls, result: Result) -> "Background[Result]":
        """Work that is over already."""
        future: Future[Result] = Future()
        future.set_result(result)
        return cls(future)

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def result(self) -> Result:
        """Waits for the result. An exception that ended the work is raised here."""
        return self.future.result()

    def cancel(self) -> None:
        """Ends the work and returns when it is over; what it gave is dropped, and so is an exception that ended it.

        Sampling ends at once. Scoring that is under way ends first, which its time limits bound.
        """
        with self.interrupted():
            wait([self.future])
