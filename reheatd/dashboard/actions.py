"""What can be done on the pages: each action has a page that says what will happen, and a button that does it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.api.operator import Operator
from reheatd.dashboard.forms import read_form
from reheatd.dashboard.rendering import Renderer, leave_for
from reheatd.errors import BadInputError, ConflictError, NotFoundError, ReheatdError
from reheatd.jobs.contracts import GateResult, JobStatus, parse_request
from reheatd.names import parse_version, version_name

Form = Mapping[str, str]


@dataclass(frozen=True)
class Field:
    """A number that may be given with an action; empty means the configured value."""

    name: str
    label: str
    help: str
    value: str = ""


@dataclass(frozen=True)
class Plan:
    """What an action will do, for somebody who decides on it."""

    title: str
    lines: list[str]
    button: str
    back: str
    fields: list[Field] = field(default_factory=list)
    danger: bool = False


@dataclass(frozen=True)
class Action:
    """`plan` says what `do` will do; `do` returns the page to go on to and what to say there."""

    plan: Callable[[Form], Plan]
    do: Callable[[Form], Awaitable[tuple[str, str]]]


class Actions:
    """The pages `/ui/actions/NAME`. What an action is about, e.g. `version`, is in the query."""

    def __init__(self, context: ApiContext, renderer: Renderer) -> None:
        self._context = context
        self._renderer = renderer
        self._operator = Operator(context.controller, context.ledger)
        self._actions = {
            "promote": Action(self._plan_promote, self._promote),
            "rollback": Action(self._plan_rollback, self._rollback),
            "delete": Action(self._plan_delete, self._delete),
            "reheat": Action(self._plan_reheat, self._submit("reheat")),
            "rl": Action(self._plan_rl, self._submit("rl")),
            "measure": Action(self._plan_measure, self._measure),
            "resume": Action(self._plan_resume, self._resume),
            "approve": Action(self._plan_approve, self._approve),
            "cancel": Action(self._plan_cancel, self._cancel),
        }

    def routes(self) -> list[Route]:
        return [
            Route("/ui/actions/{name}", self._confirm, methods=["GET"]),
            Route("/ui/actions/{name}", self._act, methods=["POST"]),
        ]

    async def _confirm(self, request: Request) -> Response:
        return self._show(request, self._action(request).plan(request.query_params))

    async def _act(self, request: Request) -> Response:
        action, form = self._action(request), await read_form(request)
        given = {**request.query_params, **form}
        try:
            path, notice = await action.do(given)
        except ReheatdError as error:
            return self._show(request, action.plan(given), error=error, given=given)
        return leave_for(path, notice)

    def _action(self, request: Request) -> Action:
        action = self._actions.get(request.path_params["name"])
        if action is None:
            raise HTTPException(404)
        return action

    def _gates(self, job_id: str) -> list[GateResult]:
        try:
            return self._context.controller.job(job_id).gates
        except NotFoundError:  # the version came with its folder from another data folder
            return []

    def _show(
        self, request: Request, plan: Plan, *, error: ReheatdError | None = None, given: Form | None = None
    ) -> Response:
        return self._renderer.page(
            request,
            "action.html",
            status=200 if error is None else error.status,
            title=plan.title,
            lines=plan.lines,
            fields=plan.fields,
            button=plan.button,
            back=plan.back,
            danger=plan.danger,
            problem=error and error.message,
            given=given or {},
        )

    def _plan_promote(self, form: Form) -> Plan:
        version = _version(form)
        info, now = self._context.versions.get(version), self._context.versions.promoted()
        name, lines = version_name(version), []
        if version == now:
            lines.append(f"{name} is served already.")
        lines.append(f"`policy` will mean {name} instead of {version_name(now)}.")
        lines.append(
            f"The engine loads {name}, and it is proved that it decodes with it, before any client gets it. "
            f"Answers under way end on {version_name(now)}."
        )
        gates = self._gates(info.lineage.job_id) if info.lineage and info.lineage.job_id else []
        lines += [f"It did not pass the gate {gate.name}: {gate.detail}" for gate in gates if gate.outcome != "passed"]
        lines.append("A roll-back undoes it.")
        return Plan(f"Promote {name}", lines, f"Promote {name}", f"/ui/versions/{version}")

    async def _promote(self, form: Form) -> tuple[str, str]:
        swapped = await self._operator.promote(_version(form))
        return "/ui/versions", f"{version_name(swapped.to_version)} is served, after {swapped.seconds:.1f} s."

    def _plan_rollback(self, form: Form) -> Plan:
        previous, now = self._context.versions.previous(), self._context.versions.promoted()
        if previous is None:
            raise ConflictError("there is no version to roll back to")
        lines = [
            f"`policy` will mean {version_name(previous)} again instead of {version_name(now)}.",
            f"Answers under way end on {version_name(now)}, which stays and can be promoted again.",
        ]
        return Plan(f"Roll back to {version_name(previous)}", lines, "Roll back", "/")

    async def _rollback(self, form: Form) -> tuple[str, str]:
        swapped = await self._operator.rollback()
        return "/", f"{version_name(swapped.to_version)} is served again, after {swapped.seconds:.1f} s."

    def _plan_delete(self, form: Form) -> Plan:
        version = _version(form)
        self._context.versions.get(version)
        lines = [f"The files of {version_name(version)} are deleted for good. Its number is never used again."]
        return Plan(f"Delete {version_name(version)}", lines, "Delete it", f"/ui/versions/{version}", danger=True)

    async def _delete(self, form: Form) -> tuple[str, str]:
        version = _version(form)
        await self._operator.delete(version)
        return "/ui/versions", f"{version_name(version)} is deleted."

    def _plan_reheat(self, form: Form) -> Plan:
        options = self._context.settings.reheat
        monitor, promoted = self._context.monitor, version_name(self._context.versions.promoted())
        target = monitor.thresholds.target if monitor.thresholds else None
        lines = [
            f"A worker trains an adapter on top of {promoted} until its entropy is back"
            + (f" at {target:.3g} nats per token" if target else "")
            + f", for at most {options.steps} steps.",
            "It is promoted only if it passes its gates; clients are served meanwhile.",
        ]
        fields = [
            Field("tau", "Temperature of the teacher, tau", "Empty: what the configuration says."),
            Field("target_entropy", "Target in nats per token", "Empty: the healthy phase of the run."),
            Field("steps", "Largest number of steps", f"Empty: {options.steps}."),
        ]
        return Plan(f"Reheat {promoted}", lines, "Reheat", "/", fields)

    def _plan_rl(self, form: Form) -> Plan:
        options, promoted = self._context.settings.rl, version_name(self._context.versions.promoted())
        lines = [
            f"A worker continues RL from {promoted} for at most {options.steps} steps.",
            "Its version is promoted only if it passes its gates; clients are served meanwhile.",
        ]
        fields = [Field("steps", "Largest number of steps", f"Empty: {options.steps}.")]
        return Plan(f"Continue RL from {promoted}", lines, "Continue RL", "/", fields)

    def _submit(self, kind: str) -> Callable[[Form], Awaitable[tuple[str, str]]]:
        async def submit(form: Form) -> tuple[str, str]:
            body = {name: _number(name, text) for name, text in form.items()}
            job = self._operator.submit(parse_request({"kind": kind, **body}))
            return f"/ui/jobs/{job.job_id}", f"{job.job_id} is queued."

        return submit

    def _plan_measure(self, form: Form) -> Plan:
        lines = ["A window of entropy is measured on the probes now, which takes the engine some seconds."]
        return Plan("Measure now", lines, "Measure", "/")

    async def _measure(self, form: Form) -> tuple[str, str]:
        self._context.monitor.trigger()
        return "/", "A window is measured now; its verdict shows here."

    def _plan_resume(self, form: Form) -> Plan:
        lines = [f"No more {pause.what} start since they failed: {pause.why}" for pause in self._operator.pauses]
        return Plan("Resume", [*lines, "The daemon may start them by itself again."], "Resume", "/")

    async def _resume(self, form: Form) -> tuple[str, str]:
        resumed = self._operator.resume()
        return "/", f"Resumed: {', '.join(pause.what for pause in resumed) or 'nothing was paused'}."

    def _plan_approve(self, form: Form) -> Plan:
        job = self._context.controller.job(_job(form))
        if job.version is not None:
            lines = [f"{version_name(job.version)} is promoted, although a gate had no evidence:"]
            lines += [f"{gate.name}: {gate.detail}" for gate in job.gates if gate.outcome != "passed"]
        else:
            lines = [f"{job.job_id} ({job.kind}, {job.trigger}) is queued, and starts when a worker is free."]
        return Plan(f"Approve {job.job_id}", lines, "Approve", f"/ui/jobs/{job.job_id}")

    async def _approve(self, form: Form) -> tuple[str, str]:
        job = self._operator.approve(_job(form))
        return f"/ui/jobs/{job.job_id}", f"{job.job_id} is approved."

    def _plan_cancel(self, form: Form) -> Plan:
        job = self._context.controller.job(_job(form))
        lines = [f"{job.job_id} ends without a new version; what it has trained is lost."]
        if job.status is JobStatus.AWAITING_APPROVAL and job.version is not None:
            lines = [f"{version_name(job.version)} is rejected. It stays, and can be promoted by hand."]
        return Plan(f"Cancel {job.job_id}", lines, "Cancel the job", f"/ui/jobs/{job.job_id}", danger=True)

    async def _cancel(self, form: Form) -> tuple[str, str]:
        job = self._operator.cancel(_job(form))
        return f"/ui/jobs/{job.job_id}", f"{job.job_id} is being cancelled."


def _version(form: Form) -> int:
    return parse_version(form.get("version", ""))


def _job(form: Form) -> str:
    if "job" not in form:
        raise BadInputError("job is missing: the id of a job", param="job")
    return form["job"]


def _number(name: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise BadInputError(f"{name} = {text[:80]!r} is no number", param=name) from error
