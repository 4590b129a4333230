"""Fixtures of the fault matrix, and the table at its end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.chaos.arena import Arena, Proven
from tests.chaos.fault import Fault, under_load
from tests.chaos.scoreboard import Row, Scoreboard
from tests.integration.serving import trainer_proof
from tests.random_adapter import random_adapter

SCOREBOARD = pytest.StashKey[Scoreboard]()
Inject = Callable[[str, Arena], AbstractContextManager[Fault]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SCOREBOARD] = Scoreboard()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    scoreboard = config.stash[SCOREBOARD]
    if scoreboard.rows:
        terminalreporter.write("\n" + scoreboard.table())
        scoreboard.report()


@pytest.fixture
def fault(pytestconfig: pytest.Config) -> Inject:
    """`fault(NAME, ARENA)`: a context in which the fault NAME is injected under load; see `under_load`."""

    @contextmanager
    def inject(name: str, arena: Arena) -> Iterator[Fault]:
        row = Row(name)
        pytestconfig.stash[SCOREBOARD].rows.append(row)
        with under_load(arena, row) as injected:
            yield injected

    return inject


@pytest.fixture(scope="session")
def adapters(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Proven]:
    """Adapters that differ, each with what its trainer computes."""
    folder = tmp_path_factory.mktemp("adapters")
    made = [random_adapter(folder / str(seed), tiny_policy, seed=seed, size=0.05) for seed in range(1, 7)]
    return [(adapter, trainer_proof(tiny_policy, adapter, prompts=4, tokens=16)) for adapter in made]
