"""The page *Chat*: asks any version, or two side by side, and shows where they are sure and where they are not."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote_plus

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.dashboard.asking import Answer, Asker, Question
from reheatd.dashboard.forms import read_form
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.sampling import DEFAULTS, HOTTEST, MOST_TOKENS, Sampling, model_of
from reheatd.dashboard.tokens import legend
from reheatd.errors import BadInputError, ReheatdError
from reheatd.measures import Contract
from reheatd.names import ALIAS_NAME, parse_version

SIDES = ("a", "b")
MOST_CHARACTERS = 20_000
"""Longest message."""
HISTORY_BYTES = 120_000
"""Longest conversation that is sent along in the form; the oldest turns beyond are left out."""


class Turn(Contract):
    """A message, and what each side answered."""

    message: str
    answers: dict[str, str]
    """Texts by side."""
    names: dict[str, str]
    """Names of the versions that answered, by side."""


TURNS = TypeAdapter(list[Turn])


@dataclass(frozen=True)
class Chat:
    """What the page shows. Fields of the form stay as they were typed."""

    fields: Mapping[str, str]
    turns: list[Turn] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    """The answers to the newest message, which are coloured."""
    asked: str = ""
    """The newest message."""
    problem: str | None = None
    is_shortened: bool = False
    """Whether the oldest turns were left out."""


class ChatPage:
    """Asks what people type, and shows the answers.

    Args:
        asker: Asks the versions.
    """

    def __init__(self, context: ApiContext, renderer: Renderer, asker: Asker) -> None:
        self._context = context
        self._renderer = renderer
        self._asker = asker

    def routes(self) -> list[Route]:
        return [
            Route("/ui/chat", self._begin, methods=["GET"]),
            Route("/ui/chat", self._say, methods=["POST"]),
        ]

    async def _begin(self, request: Request) -> Response:
        fields = {name: request.query_params[name] for name in SIDES if name in request.query_params}
        try:
            self._models(fields)
        except ReheatdError as error:
            return await self._show(request, Chat(fields, problem=error.message), error.status)
        return await self._show(request, Chat(fields))

    async def _say(self, request: Request) -> Response:
        """Asks, and shows the answers below the conversation; a message without an answer stays in the form."""
        fields: dict[str, str] = {}
        turns: list[Turn] = []
        try:
            fields = await read_form(request)
            turns = _turns(fields.get("history", "[]"))
            sampling, models, message = Sampling.of(fields), self._models(fields), _message(fields)
        except ReheatdError as error:
            return await self._show(request, Chat(fields, turns, problem=error.message), error.status)
        questions = [
            Question(model, _messages(turns, side, message), sampling.temperature, sampling.max_tokens)
            for side, model in models.items()
        ]
        answers = await self._asker.ask(request, questions)
        chat = Chat(fields, turns, answers, message)
        if all(answer.problem is None for answer in answers):
            turn = Turn(
                message=message,
                answers=dict(zip(models, (answer.text for answer in answers), strict=True)),
                names=dict(zip(models, (answer.version for answer in answers), strict=True)),
            )
            kept = _shortened([*turns, turn])
            chat = replace(
                chat, fields={**fields, "message": "", "history": _packed(kept)}, is_shortened=len(kept) <= len(turns)
            )
        return await self._show(request, chat)

    def _models(self, fields: Mapping[str, str]) -> dict[str, str]:
        """The names of the versions that are asked, by side.

        Raises:
            BadInputError, NotFoundError: A side names none.
        """
        wanted = {"a": fields.get("a", ALIAS_NAME), "b": fields.get("b", "")}
        return {side: model_of(self._context.versions, text) for side, text in wanted.items() if text}

    async def _show(self, request: Request, chat: Chat, status: int = 200) -> Response:
        versions = self._context.versions
        return await asyncio.to_thread(
            self._renderer.page,
            request,
            "chat.html",
            status=status,
            chat=chat,
            fields={**DEFAULTS, "a": ALIAS_NAME, "b": "", "message": "", "history": "[]", **chat.fields},
            chosen={side: _number(chat.fields.get(side, "")) for side in SIDES},
            numbers=versions.versions()[::-1],
            promoted=versions.promoted(),
            legend=legend(),
            most_tokens=MOST_TOKENS,
            hottest=HOTTEST,
            most_characters=MOST_CHARACTERS,
        )


def _messages(turns: Sequence[Turn], side: str, message: str) -> list[dict[str, str]]:
    """The conversation as one side sees it. What it did not answer itself, the other side did."""
    found: list[dict[str, str]] = []
    for turn in turns:
        answer = turn.answers.get(side, next(iter(turn.answers.values()), ""))
        found += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": answer}]
    return [*found, {"role": "user", "content": message}]


def _message(fields: Mapping[str, str]) -> str:
    message = fields.get("message", "").replace("\r\n", "\n").strip()
    if not message:
        raise BadInputError("the message is empty; write one", param="message")
    if len(message) > MOST_CHARACTERS:
        raise BadInputError(f"the message has more than {MOST_CHARACTERS:,} characters", param="message")
    return message


def _turns(text: str) -> list[Turn]:
    try:
        return TURNS.validate_json(text)
    except ValidationError as error:
        raise BadInputError("history is no conversation of this page; start anew", param="history") from error


def _packed(turns: Sequence[Turn]) -> str:
    return json.dumps([turn.model_dump() for turn in turns], ensure_ascii=False, separators=(",", ":"))


def _shortened(turns: list[Turn]) -> list[Turn]:
    """The newest turns, as many as a form may carry."""
    kept: list[Turn] = []
    left = HISTORY_BYTES
    for turn in reversed(turns):
        left -= len(quote_plus(_packed([turn])))
        if left < 0 and kept:
            break
        kept.insert(0, turn)
    return kept


def _number(text: str) -> int | None:
    """The number of the version that a field names; None for the alias, and for what names none."""
    try:
        return parse_version(text)
    except BadInputError:
        return None
