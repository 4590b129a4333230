"""The page *Compare*: two versions side by side, in figures, in options and in answers to the same prompts."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.dashboard.asking import Answer, Asker, Question
from reheatd.dashboard.forms import read_form
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.sampling import DEFAULTS, HOTTEST, MOST_TOKENS, Sampling, count, model_of
from reheatd.dashboard.tokens import legend
from reheatd.dashboard.version_facts import VersionFacts, facts_of, options_of
from reheatd.errors import BadInputError, ReheatdError
from reheatd.jobs.report import JobReport, read_report
from reheatd.measures import Accuracy, PassRate
from reheatd.names import parse_version

MOST_PROBES = 5
"""Probes that are asked at once, each of both versions."""
MOST_CHARACTERS = 20_000
"""Longest prompt."""
MOST_SEED = 2**31


@dataclass(frozen=True)
class Side:
    """One of the two versions."""

    asked: str
    """What the page was asked to compare."""
    facts: VersionFacts | None = None
    report: JobReport | None = None
    problem: str | None = None
    """Why there are no facts, e.g. because the version was deleted; or why its report cannot be read."""

    @property
    def name(self) -> str:
        return self.facts.name if self.facts is not None else self.asked

    @property
    def accuracy(self) -> Accuracy | None:
        return self.facts and self.facts.accuracy

    def pass_at(self, k: int) -> PassRate | None:
        return next((rate for rate in self.accuracy.pass_at if rate.k == k), None) if self.accuracy else None


@dataclass(frozen=True)
class Asked:
    """One prompt with the answers of both versions."""

    prompt: str
    answers: list[Answer]


@dataclass(frozen=True)
class Results:
    """What was answered, or why nothing was. Fields of the form stay as they were typed."""

    fields: Mapping[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    problem: str | None = None


class ComparePage:
    """Shows two versions, and asks both.

    Args:
        asker: Asks the versions.
    """

    def __init__(self, context: ApiContext, renderer: Renderer, asker: Asker) -> None:
        self._context = context
        self._renderer = renderer
        self._asker = asker

    def routes(self) -> list[Route]:
        return [
            Route("/ui/compare", self._page, methods=["GET"]),
            Route("/ui/compare", self._ask, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        return await self._show(request, Results())

    async def _ask(self, request: Request) -> Response:
        """Asks both versions the same prompts, with the same random numbers."""
        form: dict[str, str] = {}
        try:
            form = await read_form(request)
            sampling = Sampling.of(form)
            models = [model_of(self._context.versions, text) for text in self._chosen(request)]
            prompts = self._prompts(form)
        except ReheatdError as error:
            return await self._show(request, Results(form, problem=error.message), error.status)
        seed = secrets.randbelow(MOST_SEED)
        questions = [
            Question(model, messages, sampling.temperature, sampling.max_tokens, seed)
            for messages in prompts
            for model in models
        ]
        answers = await self._asker.ask(request, questions)
        asked = [
            Asked(_as_text(messages), answers[len(models) * index : len(models) * (index + 1)])
            for index, messages in enumerate(prompts)
        ]
        return await self._show(request, Results(form, asked))

    def _chosen(self, request: Request) -> tuple[str, str]:
        """The two versions in the query; by default what is served and what it came from."""
        versions, query = self._context.versions, request.query_params
        promoted = versions.promoted()
        lineage = versions.get(promoted).lineage
        return query.get("a") or str(lineage.parent if lineage else 0), query.get("b") or str(promoted)

    def _prompts(self, form: Mapping[str, str]) -> list[Sequence[Mapping[str, str]]]:
        """What is asked: the prompt that was typed, and as many probes as are wanted.

        Raises:
            BadInputError: That is nothing, or too much.
        """
        typed = form.get("prompt", "").replace("\r\n", "\n").strip()
        if len(typed) > MOST_CHARACTERS:
            raise BadInputError(f"the prompt has more than {MOST_CHARACTERS:,} characters", param="prompt")
        probes = self._context.monitor.meter.probes.probes[: count(form, "probes", MOST_PROBES, 0)]
        prompts: list[Sequence[Mapping[str, str]]] = [[{"role": "user", "content": typed}]] if typed else []
        prompts += probes
        if not prompts:
            raise BadInputError("there is nothing to ask: write a prompt, or take some probes", param="prompt")
        return prompts

    async def _show(self, request: Request, results: Results, status: int = 200) -> Response:
        sides = [await self._side(text) for text in self._chosen(request)]
        one, other = (options_of(side.facts.lineage) if side.facts else {} for side in sides)
        differ = {
            name: (one.get(name), other.get(name))
            for name in sorted({*one, *other})
            if one.get(name) != other.get(name)
        }
        ks = sorted({rate.k for side in sides if side.accuracy for rate in side.accuracy.pass_at if rate.k > 1})
        versions = self._context.versions
        return await asyncio.to_thread(
            self._renderer.page,
            request,
            "compare.html",
            status=status,
            sides=sides,
            ks=ks,
            differ=differ,
            same=len({*one, *other}) - len(differ),
            results=results,
            fields={**DEFAULTS, "prompt": "", "probes": "1", **results.fields},
            numbers=versions.versions()[::-1],
            chosen=[side.facts.version if side.facts else None for side in sides],
            promoted=versions.promoted(),
            legend=legend(),
            most_tokens=MOST_TOKENS,
            hottest=HOTTEST,
            most_characters=MOST_CHARACTERS,
            most_probes=min(MOST_PROBES, len(self._context.monitor.meter.probes)),
        )

    async def _side(self, text: str) -> Side:
        """A version as it is now; what is wrong with it is said in its place."""
        try:
            facts = facts_of(self._context, parse_version(text))
        except ReheatdError as error:
            return Side(text, problem=error.message)
        try:
            folder = self._context.versions.report_path(facts.version)
            report = None if folder is None else await asyncio.to_thread(_report, folder)
        except ReheatdError as error:
            return Side(text, facts, problem=error.message)
        return Side(text, facts, report)


def _report(folder: Path) -> JobReport | None:
    return read_report(folder) if folder.is_dir() else None


def _as_text(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt for readers: what is said, with who says it where that is not one user alone."""
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
