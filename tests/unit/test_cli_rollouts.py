"""`reheatd rollouts`: which of a job's rollouts are shown."""

import json

import pytest

from tests.unit.report_support import rollout_row
from tests.unit.test_cli_commands import fake_daemon, reheatd

ROWS = [rollout_row(step, reward) for step, reward in ((0, 0.0), (1, 0.25), (2, 1.0), (3, 0.5))]
for index, row in enumerate(ROWS):
    row.truncated = index >= 2
BODY = {"job_id": "j1", "total": 4, "rollouts": [row.model_dump(mode="json") for row in ROWS]}
ALL = "GET /reheatd/v1/jobs/j1/rollouts?last=100000"


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--min-reward", "0.25"], [1, 2, 3]),
        (["--max-reward", "0.5"], [0, 1, 3]),
        (["--min-reward", "0.25", "--max-reward", "0.5"], [1, 3]),
        (["--truncated"], [2, 3]),
        (["--truncated", "--max-reward", "0.5"], [3]),
        (["--min-reward", "0.25", "--last", "2"], [2, 3]),
        (["--min-reward", "2"], []),
    ],
)
def test_only_what_fits_is_shown_and_the_newest_of_it(options: list[str], steps: list[int]) -> None:
    with fake_daemon(**{ALL: [(200, BODY)]}) as url:
        shown = json.loads(reheatd("rollouts", "j1", *options, "--json", "--url", url).stdout)
        text = reheatd("rollouts", "j1", *options, "--url", url).stdout
    assert [row["step"] for row in shown] == steps
    assert f"{len(steps)} of the " in text and "among the 4 rollouts that are kept of j1" in " ".join(text.split())


def test_filters_that_cannot_fit_are_refused() -> None:
    reheat = {**BODY, "rollouts": [{**row, "reward": None, "advantage": None} for row in BODY["rollouts"]]}
    with fake_daemon(**{ALL: [(200, reheat)]}) as url:
        no_rewards = reheatd("rollouts", "j1", "--min-reward", "0.5", "--url", url)
        crossed = reheatd("rollouts", "j1", "--min-reward", "1", "--max-reward", "0", "--url", url)
    assert no_rewards.returncode == crossed.returncode == 2
    assert "have no rewards" in no_rewards.stderr and "--min-reward 1 is above --max-reward 0" in crossed.stderr


def test_the_former_name_of_the_command_still_works() -> None:
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1/rollouts?last=10": [(200, BODY)]}) as url:
        assert reheatd("jobs", "rollouts", "j1", "--url", url).stdout == reheatd("rollouts", "j1", "--url", url).stdout
    assert "rollouts" not in reheatd("jobs", "--help").stdout
