"""`reheatd compare`: two versions side by side, in figures and in their answers to the same prompts."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from cli import render
from cli.asking import Asked, ChatAnswer, chat
from cli.client import DaemonClient
from cli.completion import complete_version
from cli.options import DEFAULT_URL, ConfigOption, UrlOption
from cli.version_figures import Figures, compared, lineage_of
from reheatd.config import load_settings
from reheatd.entropy.probes import load_probes
from reheatd.errors import BadInputError
from reheatd.names import model_name, parse_version, version_name


def _version(which: str) -> Any:
    return typer.Argument(metavar=which, help="E.g. 3, policy-v3 or base.", autocompletion=complete_version)


@render.json_or_text
def compare(
    a: Annotated[str, _version("A")],
    b: Annotated[str, _version("B")],
    ask: Annotated[
        list[str] | None, typer.Option("--ask", metavar="PROMPT", help="Ask both this; may be given several times.")
    ] = None,
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Ask both the first so many probes of the configuration.")
    ] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Sampling temperature; 0 decodes greedily.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both answers.")] = 0,
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", help="Address for prompts, if administration has its own; default: --url."),
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Compare two versions: entropy, avg@k, pass@k, gates and lineage, and their answers to the same prompts."""
    client = DaemonClient(url)
    first, second = parse_version(a), parse_version(b)
    if first == second:
        raise BadInputError(f"{a} and {b} are the same version; name two", param="B")
    sides = compared(client, first, second)
    messages: list[list[dict[str, Any]]] = [[{"role": "user", "content": text}] for text in ask or ()]
    if prompts:
        configured = load_settings(config)
        messages += [
            [dict(message) for message in probe]
            for probe in load_probes(configured.task, configured.entropy).probes[:prompts]
        ]
    asker = client if gateway is None else DaemonClient(gateway)
    asked = [Asked(messages=each) for each in messages]
    for each in asked:
        for version in (first, second):
            request = chat(
                model_name(version), each.messages, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
            each.answers[version_name(version)] = asker.send(request)
    yield {
        "versions": [side.as_json() for side in sides],
        "asked": [each.model_dump(mode="json") for each in asked],
    }
    _print_figures(*sides)
    for each in asked:
        _print_answers(each)


def _print_figures(first: Figures, second: Figures) -> None:
    rows = render.table("", first.name, second.name, "change")
    rows.add_row("state", first.state, second.state, "")
    rows.add_row("kind", first.kind, second.kind, "")
    rows.add_row("made", render.age(first.made_at), render.age(second.made_at), "")
    rows.add_row(
        "entropy", render.entropy(first.entropy), render.entropy(second.entropy), _entropy_change(first, second)
    )
    for name in dict.fromkeys([*first.rates(), *second.rates()]):
        rows.add_row(
            name,
            render.share(first.rates().get(name)),
            render.share(second.rates().get(name)),
            second.gain(first, name),
        )
    for name in dict.fromkeys([*first.gates, *second.gates]):
        outcomes = [side.gates.get(name) for side in (first, second)]
        rows.add_row(
            f"gate {name}", *(render.NOTHING if each is None else render.outcome(each) for each in outcomes), ""
        )
    render.console.print(rows)
    for side in (first, second):
        render.console.print(f"[dim]lineage[/]  {escape(lineage_of(side))}")


def _entropy_change(first: Figures, second: Figures) -> str:
    if first.entropy is None or second.entropy is None or first.entropy.mean <= 0:
        return ""
    change = second.entropy.mean - first.entropy.mean
    apart = first.entropy.high < second.entropy.low or second.entropy.high < first.entropy.low
    note = "" if apart else " [dim](the intervals overlap)[/]"
    return f"{change:+.3f}, x {second.entropy.mean / first.entropy.mean:.2f}{note}"


def _print_answers(asked: Asked) -> None:
    render.console.print()
    for message in asked.messages:
        prompt = render.printable(f"{message.get('role')}: {message.get('content')}")
        render.console.print(Text(prompt, style="dim"))
    texts = {answer.text for answer in asked.answers.values()}
    if len(texts) == 1:
        names = " and ".join(asked.answers)
        _print_answer(f"{names} alike", next(iter(asked.answers.values())))
        return
    for name, answer in asked.answers.items():
        _print_answer(name, answer)


def _print_answer(who: str, answer: ChatAnswer) -> None:
    tokens = "" if answer.tokens is None else f"  {answer.tokens} tokens"
    render.console.print(Text(f"{who}{tokens}{', cut off' if answer.cut_off else ''}", style="bold"))
    render.console.print(Text(render.printable(answer.text)))
