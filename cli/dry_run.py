"""What `--dry-run` shows of a job: all its options and what it would need."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from cli import render
from reheatd.api.schemas import JobPlan, JobPreview
from reheatd.jobs.contracts import TrainingRequest
from reheatd.names import version_name
from reheatd.plan.fit import GIB


@render.json_or_text
def show_preview(preview: JobPreview, request: TrainingRequest) -> render.JsonThenText:
    """Prints what the daemon would do with a request."""
    yield preview.model_dump(mode="json")
    spec = preview.spec
    before = preview.jobs_before
    when = "at once" if not before else f"after {before} {'job' if before == 1 else 'jobs'} that run or wait"
    render.console.print(
        f"a job of kind {spec.kind} would start {when} from {version_name(spec.parent_version)}; nothing was started"
    )
    facts = render.facts()
    asked = request.given()
    for name, value in flat(spec.model_dump(mode="json", exclude={"kind", "job_id", "places"})):
        note = "  [dim]as asked[/]" if name in asked else ""
        facts.add_row(name, f"{escape(_shown(value))}{note}")
    render.console.print(facts)
    render.console.print()
    if preview.plan is None:
        render.console.print(f"no plan: {escape(preview.plan_problem or '')}")
    else:
        render.console.print(_plan(preview.plan, preview.steps, spec.kind))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, by names like `task.eval_count`."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and len(value) > 8:  # outcomes of single problems
        return f"{len(value)} values"
    return str(value)


def _plan(plan: JobPlan, steps: int, kind: str) -> Table:
    facts = render.facts()
    device = "GPU" if plan.device == "cuda" else "machine"
    facts.add_row("memory", f"{plan.device_bytes / GIB:.1f} GiB of each {device}")
    facts.add_row("engine", f"{plan.engine_bytes / GIB:.2f} GiB, with a KV cache of {plan.kv_tokens} tokens")
    how = "with" if plan.checkpointed else "without"
    facts.add_row(
        "worker", f"{plan.worker_bytes / GIB:.2f} GiB, {plan.tokens_at_once} tokens at a time {how} checkpointed layers"
    )
    assumed = ", which are assumed until the job finds the length" if plan.answer_tokens_assumed else ""
    facts.add_row("tokens", f"prompts of {plan.prompt_tokens} and answers of {plan.answer_tokens}{assumed}")
    if plan.step_s is not None:
        total = render.duration(plan.step_s * steps)
        facts.add_row("time", f"about {plan.step_s:.0f} s a step, so {total} for {steps} steps, without gates")
    elif kind == "rl":
        facts.add_row("time", "not known on a CPU without measuring it; `reheatd plan` does, on the daemon's machine")
    else:
        facts.add_row("time", f"not known: a reheat ends when it reaches its target, after {steps} steps at most")
    return facts
