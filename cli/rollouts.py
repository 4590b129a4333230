"""`reheatd rollouts`: reads what the policy sampled while a job trained it."""

from typing import Annotated

import typer
from rich.markup import escape

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, JobArgument, UrlOption
from reheatd.errors import BadInputError
from reheatd.jobs.rollouts import RolloutRow

ALL = 100_000
"""More rollouts than are kept of any job."""


@render.json_or_text
def rollouts(
    job_id: JobArgument,
    step: Annotated[int | None, typer.Option(min=0, help="Only what was sampled after this many steps.")] = None,
    min_reward: Annotated[float | None, typer.Option(help="Only rollouts with at least this reward.")] = None,
    max_reward: Annotated[float | None, typer.Option(help="Only rollouts with at most this reward.")] = None,
    truncated: Annotated[
        bool, typer.Option("--truncated", help="Only rollouts that were cut off at their longest length.")
    ] = False,
    last: Annotated[
        int, typer.Option(min=1, max=ALL, help="Number of rollouts, counted from the newest that fit.")
    ] = 10,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Read what the policy sampled while a job trained it: prompts, completions and rewards, the newest last."""
    rewarded = min_reward is not None or max_reward is not None
    if min_reward is not None and max_reward is not None and min_reward > max_reward:
        raise BadInputError(
            f"--min-reward {min_reward:g} is above --max-reward {max_reward:g}, so nothing fits", param="--min-reward"
        )
    filtered = rewarded or truncated
    view = DaemonClient(url).rollouts(job_id, last=ALL if filtered else last, step=step)
    if rewarded and view.rollouts and all(row.reward is None for row in view.rollouts):
        raise BadInputError(
            f"rollouts of {job_id} have no rewards, as it is a reheat; leave out --min-reward and --max-reward",
            param="--min-reward",
        )
    fitting = [row for row in view.rollouts if _fits(row, min_reward, max_reward, truncated)]
    shown = fitting[-last:]
    yield [row.model_dump(mode="json") for row in shown]
    for row in shown:
        render.print_rollout(row)
    of = escape(job_id if step is None else f"step {step} of {job_id}")
    among = f"the {len(fitting)} that fit, among " if filtered else ""
    render.console.print(f"{len(shown)} of {among}the {view.total} rollouts that are kept of {of}")


def _fits(row: RolloutRow, min_reward: float | None, max_reward: float | None, truncated: bool) -> bool:
    if truncated and not row.truncated:
        return False
    if min_reward is None and max_reward is None:
        return True
    low, high = float("-inf") if min_reward is None else min_reward, float("inf") if max_reward is None else max_reward
    return row.reward is not None and low <= row.reward <= high
