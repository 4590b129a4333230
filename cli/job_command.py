"""Commands that ask for a job. Their flags are made from the request's options, so that none is declared twice."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from cli.client import DaemonClient
from cli.dry_run import show_preview
from cli.jobs import submit
from cli.options import DEFAULT_URL, JsonOption, UrlOption, WaitOption
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatRequest, RLRequest, validated

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Start nothing; show all options of the job, and what it would need.")
]


def job_command(request: type[ReheatRequest | RLRequest], summary: str) -> Callable[..., None]:
    """A command with a flag for every option of `request`.

    Args:
        summary: First sentence of the command's help.
    """

    def command(*, dry_run: bool, wait: bool, url: str, json_output: bool, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        asked = _checked(request, given)
        if dry_run and wait:
            raise BadInputError("--dry-run starts nothing that --wait could follow; leave out one", param="--dry-run")
        if dry_run:
            show_preview(DaemonClient(url).preview_job(asked), asked, json_output=json_output)
            return
        submit(DaemonClient(url), asked, wait=wait, json_output=json_output)

    fields = {name: field for name, field in request.model_fields.items() if name != "kind"}
    flags = [_parameter(name, _flag(field), None) for name, field in fields.items()]
    flags += [
        _parameter("dry_run", DryRunOption, False),
        _parameter("wait", WaitOption, False),
        _parameter("url", UrlOption, DEFAULT_URL),
        _parameter("json_output", JsonOption, False),
    ]
    table = request.model_fields["kind"].default
    setattr(command, "__signature__", inspect.Signature(flags))  # noqa: B010 - typer reads it, pyright knows no such
    command.__doc__ = f"{summary}\n\nOptions that are not given come from `[{table}]` in the daemon's configuration."
    return command


def _checked(request: type[ReheatRequest | RLRequest], given: dict[str, Any]) -> ReheatRequest | RLRequest:
    """Checks the request.

    Raises:
        BadInputError: The daemon would refuse the request; the message names the flag.
    """
    try:
        return validated(request, given)
    except BadInputError as error:
        flag = f"--{error.param.replace('_', '-')}" if error.param else None
        message = error.message.replace(str(error.param), str(flag), 1) if flag else error.message
        raise BadInputError(message, param=flag) from error


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag(field: FieldInfo) -> Any:
    """The annotation of one option's flag, without bounds, which the model checks."""
    kind = _type_of(field.annotation)
    shown = "<int|auto>" if kind is str else None
    return Annotated[kind | None, typer.Option(help=_help(field), show_default=False, metavar=shown)]


def _type_of(annotation: Any) -> Any:
    """The type of an option, without the None that means that it is off; a string if it is a number or `auto`."""
    if get_origin(annotation) is Literal:
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if len(kinds) > 1:
        return str
    return kinds[0] if kinds else annotation


def _help(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
