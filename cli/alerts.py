"""`reheatd alerts`: tries the webhooks of the configuration."""

import asyncio
import time

import aiohttp
import typer

from cli import render
from cli.options import ConfigOption
from reheatd.alerts.alert import Alert
from reheatd.alerts.hooks import Hook, HookBusyError, HookRefusedError, hooks_of
from reheatd.config import load_settings
from reheatd.control.states import State
from reheatd.errors import BadInputError, ReheatdError

app = typer.Typer(help="Try the webhooks that are told of alerts.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
@render.json_or_text
def test(config: ConfigOption = None) -> render.JsonThenText:
    """Send a test alert to every webhook of the configuration. Exits with 1 if one does not take it."""
    settings = load_settings(config)
    hooks = hooks_of(settings.alerts)
    if not hooks:
        raise BadInputError(
            "no webhook is configured; set url, slack_url_file or pagerduty_key_file in [alerts]", param="alerts"
        )
    alert = Alert(
        id=0,
        time=time.time(),
        kind="test",
        severity="warning",
        summary="a test: nothing is wrong",
        policy=settings.policy.model,
        state=State.SERVING,
        daemon=f"{settings.server.scheme}://{settings.server.host}:{settings.server.port}",
    )
    failed = asyncio.run(_send(hooks, alert))
    if failed:
        raise HookRefusedError("; ".join(error.message for error in failed))
    yield {"taken": [hook.name for hook in hooks]}
    render.console.print("taken by " + ", ".join(hook.name for hook in hooks))


async def _send(hooks: list[Hook], alert: Alert) -> list[ReheatdError]:
    """Sends an alert once to each; returns what went wrong."""
    failed: list[ReheatdError] = []
    async with aiohttp.ClientSession() as session:
        for hook in hooks:
            try:
                await hook.send(session, alert)
            except (HookBusyError, HookRefusedError) as error:
                failed.append(error)
    return failed
