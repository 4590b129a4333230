"""`reheatd adapters`: lists, shows, promotes and rolls back versions of the policy."""

import json

import typer
from rich.markup import escape
from rich.table import Table

from cli import adapter_files, render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, UrlOption, VersionArgument
from reheatd.jobs.report import JobReport
from reheatd.names import parse_version, version_name
from reheatd.signal import Reach

app = typer.Typer(help="List, show, promote, roll back, import, export or delete versions.", no_args_is_help=True)
app.command("import")(adapter_files.import_adapter)
app.command("export")(adapter_files.export_adapter)
app.command("delete")(adapter_files.delete_adapter)
app.command("prune")(adapter_files.prune_adapters)

STATE_STYLE = {"promoted": "bold green", "candidate": "cyan", "retired": "dim", "rejected": "red", "lost": "bold red"}


@app.command("list")
@render.json_or_text
def list_adapters(url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """List every version: its parent, how it was made and what was measured."""
    listed = DaemonClient(url).adapters()
    yield listed.model_dump(mode="json")
    rows = render.table("version", "state", "parent", "kind", "#tau", "entropy, nats", "accuracy", "made")
    for version in listed.adapters:
        lineage = version.lineage
        state = f"[{STATE_STYLE[version.state]}]{version.state}[/]"
        if lineage is None:
            kind = render.NOTHING if version.version else "base"
            rows.add_row(version.name, state, render.NOTHING, kind, *[render.NOTHING] * 4)
            continue
        rows.add_row(
            version.name,
            state,
            version_name(lineage.parent),
            lineage.kind,
            render.NOTHING if lineage.tau is None else f"{lineage.tau:.2f}",
            render.entropy(lineage.entropy_after),
            render.share(lineage.accuracy_after),
            render.age(lineage.created_at),
        )
    render.console.print(rows)


@app.command("show")
@render.json_or_text
def show_adapter(version: VersionArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Show one version with its whole lineage."""
    info = DaemonClient(url).adapter(version)
    yield info.model_dump(mode="json")
    facts = render.facts()
    facts.add_row("version", f"{info.name}  [{STATE_STYLE[info.state]}]{info.state}[/]")
    lineage = info.lineage
    if lineage is None and info.version:
        facts.add_row("files", "gone or damaged; the version can only be deleted")
    elif lineage is None:
        facts.add_row("kind", "the bare base model")
    else:
        facts.add_row("parent", version_name(lineage.parent))
        facts.add_row("kind", lineage.kind + (f", tau {lineage.tau:.3f}" if lineage.tau is not None else ""))
        if lineage.kind == "imported":
            source, base = lineage.spec.get("source"), lineage.spec.get("trained_on")
            facts.add_row("came from", escape(f"{source}, trained on {base}"))
        facts.add_row("job", lineage.job_id or render.NOTHING)
        facts.add_row("entropy", f"{render.entropy(lineage.entropy_before)} -> {render.entropy(lineage.entropy_after)}")
        if lineage.target_entropy is not None:
            facts.add_row("target", f"{lineage.target_entropy:.3f} nats per token")
        facts.add_row("accuracy", f"{render.share(lineage.accuracy_before)} -> {render.share(lineage.accuracy_after)}")
        if (reach := Reach.between(lineage.accuracy_base, lineage.accuracy_after)) is not None:
            facts.add_row("out of reach", render.reach(reach))
        if lineage.remedy is not None:
            facts.add_row("remedy", lineage.remedy + (f", factor {lineage.factor:.3f}" if lineage.factor else ""))
        if lineage.signal_before is not None and lineage.signal_after is not None:
            facts.add_row("lost problems", f"{lineage.signal_before} -> {lineage.signal_after}")
        if info.report is not None:
            _add_report(facts, info.report)
        if info.report_dir is not None:
            facts.add_row("report", escape(f"{info.report_dir}/report.md"))
        facts.add_row("base model", f"{escape(lineage.base_model)} [dim]{lineage.base_digest[:12]}[/]")
        facts.add_row("digest", lineage.digest)
        facts.add_row("made", render.age(lineage.created_at))
        facts.add_row("spec", f"[dim]{escape(json.dumps(lineage.spec))}[/]")
    render.console.print(facts)


def _add_report(facts: Table, report: JobReport) -> None:
    comparison = report.comparison
    top, last = comparison.top(10), comparison.layers[-1]
    before, after = comparison.parent.greedy, comparison.student.greedy
    for best, now in zip(report.accuracy_before.pass_at[-1:], report.accuracy_after.pass_at[-1:], strict=True):
        facts.add_row(f"pass@{best.k}", f"{render.share(best)} -> {render.share(now)}")
    facts.add_row("top 10", f"{top.overlap:.0%} shared, with mass {top.student_shared_mass:.0%}")
    facts.add_row("hidden states", f"CKA {last.cka:.4f} in the last layer")
    facts.add_row("KL", f"{comparison.token_kl.mean:.3f} nats per token, parent to student")
    facts.add_row("fork", f"token {before.fork_position.mean:.1f} -> {after.fork_position.mean:.1f}, from greedy")
    facts.add_row("edit distance", f"{before.edit_distance.mean:.3f} -> {after.edit_distance.mean:.3f}, from greedy")


@app.command("promote")
@render.json_or_text
def promote(version: VersionArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Serve a version as `policy`: load it, prove its delivery, flip, drain the old version."""
    number = parse_version(version)
    yield DaemonClient(url).promote(number).model_dump(mode="json")
    render.console.print(f"policy is now {version_name(number)}")


@app.command("rollback")
@render.json_or_text
def rollback(url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Serve the version that was promoted before the present one."""
    swapped = DaemonClient(url).rollback()
    yield swapped.model_dump(mode="json")
    render.console.print(f"policy is now {version_name(swapped.version)}")
