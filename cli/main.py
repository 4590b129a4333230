"""The command line `reheatd`. Every command has a file; this one puts them together and prints errors as one line."""

import json
import sys
from importlib import metadata
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli import (
    adapters,
    alerts,
    backup,
    compare,
    control,
    demo,
    diagnose,
    doctor,
    engine,
    entropy,
    explain,
    init,
    jobs,
    journal,
    keys,
    open_dashboard,
    plan,
    reheat,
    reheat_checkpoint,
    rl,
    rollouts,
    serve,
    status,
    worker,
)
from cli.errors import ReheatdUsage, UnusableFile
from cli.plain_text import use_plain_text_where_needed
from reheatd.errors import ReheatdError

app = typer.Typer(
    name="reheatd",
    help="Serves an RL policy, watches its entropy, reheats it when it collapses and swaps the adapter in.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("open")(open_dashboard.open_dashboard)
app.add_typer(entropy.app, name="entropy")
app.command("reheat")(reheat.reheat)
app.command("rl")(rl.rl)
app.add_typer(adapters.app, name="adapters")
app.add_typer(jobs.app, name="jobs")
app.command("rollouts")(rollouts.rollouts)
app.command("compare")(compare.compare)
app.command("journal")(journal.journal)
app.add_typer(control.app, name="control")
app.add_typer(keys.app, name="keys")
app.add_typer(alerts.app, name="alerts")
app.command("diagnose")(diagnose.diagnose)
app.command("reheat-checkpoint")(reheat_checkpoint.reheat_checkpoint)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("explain")(explain.explain)
app.command("init")(init.init)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("demo")(demo.demo)
app.command("worker")(worker.worker)
app.command("engine")(engine.engine)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(metadata.version("reheatd"))
        raise typer.Exit()


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line. An error is printed as one line on stderr or, with `--json`, as JSON on stdout."""
    use_plain_text_where_needed()
    try:
        code = app(standalone_mode=False)
    except ReheatdError as error:
        code = error.exit_code
        _report(error.message, error.openai_object())
        _point_to_explanation(error.code)
    except TyperException as error:
        code = error.exit_code
        message = f"{error.format_message()} (`reheatd --help` lists commands, `reheatd COMMAND --help` their options)"
        _report(message, ReheatdUsage(message).openai_object())
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # In `reheatd status | head`, for example, the reader has all it wanted.
        sys.stderr.close()
        code = 0
    except OSError as error:
        code = 1
        place = error.filename if error.filename is not None else "a file"
        message = f"{place} cannot be used: {error.strerror or error}"
        _report(message, UnusableFile(message).openai_object())
    sys.exit(code if isinstance(code, int) else 0)


def _point_to_explanation(code: str) -> None:
    """Names the command that says more, to somebody who reads along; a script gets the error's one line alone."""
    if sys.stderr.isatty() and "--json" not in sys.argv:
        print(f"reheatd: `reheatd explain {code}` says more", file=sys.stderr)


def _report(message: str, body: dict[str, object]) -> None:
    if "--json" in sys.argv:
        print(json.dumps(body))
    else:
        print("reheatd: " + " ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
