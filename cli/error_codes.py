"""Every error code with what it means and what to do: the one source of `reheatd explain` and of the docs' page."""

import inspect
from dataclasses import dataclass

# These define errors besides `reheatd.errors`; tests/unit/test_error_codes.py finds one that is missing here.
import reheatd.alerts.hooks
import reheatd.api.errors
import reheatd.backup
import reheatd.client.answers
import reheatd.client.waiting
import reheatd.control.retention
import reheatd.daemon
import reheatd.dashboard.asking
import reheatd.dashboard.live
import reheatd.database
import reheatd.entropy.monitor
import reheatd.jobs.consumer
import reheatd.process.broker
import reheatd.process.supervisor  # noqa: F401
from reheatd.errors import NotFoundError, ReheatdError
from reheatd.validation import suggestion

WAY_OUT = "What to do: "


@dataclass(frozen=True)
class ErrorCode:
    """What a code stands for. The texts are those of the docstrings of the classes that have it, in Markdown."""

    code: str
    status: int
    """HTTP status of an answer with it."""
    exit_code: int
    """Exit code of a command that ends with it."""
    meaning: tuple[str, ...]
    """When it is raised: one sentence for each kind of error that has the code."""
    way_out: str
    """What to do about it."""


def error_codes() -> list[ErrorCode]:
    """All codes, in alphabetical order."""
    kinds: dict[str, list[type[ReheatdError]]] = {}
    for kind in _descendants(ReheatdError):
        kinds.setdefault(kind.code, []).append(kind)
    return [_described(code, kinds[code]) for code in sorted(kinds)]


def error_code(code: str) -> ErrorCode:
    """One code.

    Raises:
        NotFoundError: There is no such code.
    """
    known = {each.code: each for each in error_codes()}
    if code not in known:
        hint = suggestion(code, list(known), "`reheatd explain` lists all")
        raise NotFoundError(f"there is no error code {code!r}; {hint}", param="code")
    return known[code]


def _described(code: str, kinds: list[type[ReheatdError]]) -> ErrorCode:
    texts = [(inspect.getdoc(kind) or "").split("\n\n") for kind in kinds]
    ways_out = [part for text in texts for part in text if part.startswith(WAY_OUT)]
    return ErrorCode(
        code=code,
        status=kinds[0].status,
        exit_code=kinds[0].exit_code,
        meaning=tuple(dict.fromkeys(text[0] for text in texts)),
        way_out=" ".join(" ".join(dict.fromkeys(part.removeprefix(WAY_OUT) for part in ways_out)).split()),
    )


def _descendants(kind: type[ReheatdError]) -> list[type[ReheatdError]]:
    """The kinds of errors below `kind`, each before those that are made from it."""
    found: list[type[ReheatdError]] = []
    for child in kind.__subclasses__():
        found += [child, *_descendants(child)]
    return found
