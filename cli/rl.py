"""`reheatd rl`: continued RL with verifiable rewards on the served policy."""

from typing import Annotated

import typer

from cli.client import DaemonClient
from cli.jobs import submit
from cli.options import DEFAULT_URL, JsonOption, SeedOption, UrlOption, WaitOption
from cli.reheat import require_positive


def rl(
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; default: rl.steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam learning rate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature of the rollouts.")] = None,
    seed: SeedOption = 0,
    wait: WaitOption = False,
    url: UrlOption = DEFAULT_URL,
    json_output: JsonOption = False,
) -> None:
    """Continue RL from the served policy and swap the new version in if the gates pass."""
    for name, value in (("--steps", steps), ("--learning-rate", learning_rate), ("--temperature", temperature)):
        require_positive(name, value)
    request = {
        "kind": "rl",
        "steps": steps,
        "learning_rate": learning_rate,
        "temperature": temperature,
        "seed": seed,
    }
    submit(DaemonClient(url), request, wait=wait, json_output=json_output)
