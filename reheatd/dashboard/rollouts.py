"""The page of a job's rollouts: what the policy wrote, how sure it was of each token, and what the rewards said."""

import asyncio
from collections.abc import Sequence
from html import escape

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.dashboard import parameters
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.tokens import degree, legend
from reheatd.errors import BadInputError
from reheatd.jobs.attempts import newest_attempt
from reheatd.jobs.history import JobHistory
from reheatd.jobs.rollout_pages import RolloutFilter, RolloutPage, read_page
from reheatd.jobs.rollouts import RolloutRow, TokenValues

ROLLOUTS = 20
COLOURS = {"entropy": "entropy", "logprob": "log-probability"}
"""What tokens can be coloured by."""


class RolloutPages:
    def __init__(self, context: ApiContext, renderer: Renderer) -> None:
        self._history = JobHistory(context.settings.database_path)
        self._renderer = renderer

    def routes(self) -> list[Route]:
        return [Route("/ui/jobs/{job_id}/rollouts", self._page, methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        record = await self._history.record(request.path_params["job_id"])
        spec = record.spec and newest_attempt(record.spec, record.job.attempt)
        problem, number, wanted, colour = None, 1, RolloutFilter(), None
        try:
            wanted = filter_of(request)
            number = parameters.whole(request, "page", least=1) or 1
            colour = parameters.choice(request, "colour", COLOURS)
        except BadInputError as error:
            problem = error.message
        page = RolloutPage([], 0, 0, [])
        if spec is not None and problem is None:
            page = await asyncio.to_thread(read_page, spec.rollouts_file, wanted, number, ROLLOUTS)
        last = max(1, -(-page.total // ROLLOUTS))
        if colour is None:  # every token has a log-probability, but not every sampler measures entropy
            colour = "entropy" if any(row.by_token and row.by_token.entropies for _, row in page.rows) else "logprob"
        return self._renderer.page(
            request,
            "rollouts.html",
            status=400 if problem else 200,
            problem=problem,
            job=record.job,
            rollouts=await self._rollouts(page, colour),
            page=page,
            number=number,
            last=last,
            newer=parameters.link(request, page=number - 1) if number > 1 else None,
            older=parameters.link(request, page=number + 1) if number < last else None,
            colour=colour,
            colours=COLOURS,
            legend=legend(),
            given=request.query_params,
        )

    async def _rollouts(self, page: RolloutPage, colour: str) -> list[str]:
        """The rollouts as HTML, one after the other; other tasks run in between, because tokens are many."""
        found: list[str] = []
        numbers = [number for number, _ in page.rows]
        for index, (number, row) in enumerate(page.rows):
            following = numbers[index + 1] if index + 1 < len(numbers) else None
            found.append(
                self._renderer.fragment(
                    "rollout.html", number=number, row=row, parts=coloured(row, colour), following=following
                )
            )
            await asyncio.sleep(0)
        return found


def filter_of(request: Request) -> RolloutFilter:
    """What rollouts the query asks for.

    Raises:
        BadInputError: A value cannot be used; `param` names it.
    """
    truncated = parameters.choice(request, "truncated", ["yes", "no"])
    return RolloutFilter(
        step=parameters.whole(request, "step"),
        least=parameters.number(request, "least"),
        most=parameters.number(request, "most"),
        truncated=None if truncated is None else truncated == "yes",
    )


def coloured(row: RolloutRow, colour: str) -> list[Markup]:
    """The completion in coloured tokens, a long one in two parts; empty if its tokens are not known."""
    tokens = row.by_token
    if tokens is None:
        return []
    nats = tokens.entropies if colour == "entropy" else [-logprob for logprob in tokens.logprobs]
    spans = _spans(tokens, nats)
    middle = len(spans) // 2 if tokens.left_out else len(spans)
    return [Markup("".join(part)) for part in (spans[:middle], spans[middle:]) if part]


def _spans(tokens: TokenValues, nats: Sequence[float] | None) -> list[str]:
    """The HTML of each token. There are thousands on a page, so this is plain text and not `Markup`."""
    spans: list[str] = []
    classes = [""] * len(tokens.texts) if nats is None else [f' class="heat-{degree(value)}"' for value in nats]
    entropies = [""] * len(tokens.texts)
    if tokens.entropies is not None:
        entropies = [f", entropy {entropy:.3f}" for entropy in tokens.entropies]
    for text, class_, logprob, entropy in zip(tokens.texts, classes, tokens.logprobs, entropies, strict=False):
        # A token without text is a part of a character that the next one ends.
        spans.append(text and f'<span{class_} title="log p {logprob:.3f}{entropy}">{escape(text, quote=False)}</span>')
    return spans
