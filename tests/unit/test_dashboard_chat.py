"""The page Chat: what is asked, what is shown of the answers, and what is said in place when there is none."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from reheatd.access.keys import KeyStore
from reheatd.dashboard import chat
from tests.access import guarded
from tests.unit.chat_support import FLAT, SHARP, FakeGateway, events, refusal, row, streamed
from tests.unit.dashboard_support import Client, DashboardWorld, Element, Page, browse, get, post


class ChatWorld(DashboardWorld):
    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        super().__init__(folder, **sections)
        self.fake = FakeGateway()
        self.gateway = self.fake.routes()


def fields(page: Page) -> dict[str, str]:
    """What the form would send again."""
    form = page.main.one("form")
    found = {field.attributes["name"]: field.attributes.get("value", "") for field in form.all("input")}
    found |= {area.attributes["name"]: area.text for area in form.all("textarea")}
    for select in form.all("select"):
        options = select.all("option")
        chosen = next((option for option in options if "selected" in option.attributes), options[0])
        found[select.attributes["name"]] = chosen.attributes["value"]
    return found


def newest(page: Page) -> Element:
    return page.main.one("section", "turn", aria_label="Newest turn")


async def say(client: Client, page: Page, message: str, **changes: str) -> Page:
    """Fills in the page's form and sends it."""
    answer = await post(client, "/ui/chat", **{**fields(page), "message": message, **changes})
    assert answer.status_code == 200, answer.text
    return Page(answer)


def test_an_answer_is_coloured_by_entropy_and_has_its_figures(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        page = await get(client, "/ui/chat")
        assert page.one("a", aria_current="page").text == "Chat"
        page = await say(client, page, "Who are\r\nyou?", temperature="0.7", max_tokens="50")
        (body,) = world.fake.bodies
        assert body["messages"] == [{"role": "user", "content": "Who are\nyou?"}]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("policy", 0.7, 50)
        assert (body["logprobs"], body["top_logprobs"], body["top_p"]) == (True, 4, 1.0)
        assert newest(page).one("h2").text == "policy-v0"
        spans = newest(page).one("p", "tokens").all("span")
        assert "".join(span.children[0] for span in spans if isinstance(span.children[0], str)) == (
            "I am policy-v0↵\n1"
        )
        degrees = [int(span.attributes["class"].removeprefix("heat-")) for span in spans]
        assert degrees[2] >= 8 > 5 > degrees[0] == degrees[1], "where it is sure, and where it is not"
        assert (
            spans[0].attributes["title"].startswith("entropy 0.")
            and "log-probability -0.0305" in (spans[0].attributes["title"])
        )
        table = newest(page).one("table")
        assert "I 0." in table.text and "other1 -4.605" in table.text
        assert "4 tokens, mean entropy" in newest(page).text
        assert len(newest(page).one("p", "legend").all("span")) == 11
        assert fields(page)["message"] == "" and fields(page)["temperature"] == "0.7"

    browse(ChatWorld(tmp_path), story)


def test_the_estimate_is_the_projects_own(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        page = await say(client, await get(client, "/ui/chat"), "Hello")
        entropy = float(newest(page).one("table").all("tr")[3].all("td")[0].text)
        # Three tokens take 0.11; the other 97 of the vocabulary have at most log(97 / 0.89) nats.
        assert 0.89 * 3.0 < entropy < 4.7

    browse(ChatWorld(tmp_path), story)


def test_colour_by_log_probability(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        rare = {**row("rare", SHARP), "logprob": -6.0}
        world.fake.says(lambda body: streamed(events([rare, row("sure", FLAT)]), "policy-v0"))
        page = await say(client, await get(client, "/ui/chat"), "Hello", colour="logprob")
        first, second = newest(page).one("p", "tokens").all("span")
        assert first.attributes["class"] == "heat-9" and second.attributes["class"] == "heat-8"
        assert "Surprise at the token" in newest(page).text
        assert fields(page)["colour"] == "logprob"

    browse(ChatWorld(tmp_path), story)


def test_a_conversation_goes_on_side_by_side(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        await world.publish("a")
        page = await get(client, "/ui/chat?a=1&b=0")
        assert (fields(page)["a"], fields(page)["b"]) == ("1", "0")
        page = await say(client, page, "One?")
        assert [heading.text for heading in newest(page).all("h2")] == ["policy-v1", "policy-v0"]
        page = await say(client, page, "Two?")
        last = {body["model"]: body["messages"] for body in world.fake.bodies[2:]}
        for model, messages in last.items():
            assert [message["role"] for message in messages] == ["user", "assistant", "user"]
            assert messages[1]["content"] == f"I am {model}\n1", "each goes on from its own answers"
        assert last.keys() == {"policy-v1", "policy-v0"}
        earlier = page.main.one("section", "turn", aria_label="Earlier turn")
        assert "One?" in earlier.text and "I am policy-v1 1" in earlier.text
        page = await say(client, page, "Three?", a="policy", b="")
        messages = world.fake.bodies[-1]["messages"]
        assert world.fake.bodies[-1]["model"] == "policy" and len(messages) == 5
        assert messages[3]["content"] == "I am policy-v1\n3"
        assert "Start anew" in page.main.links

    browse(ChatWorld(tmp_path), story)


def test_hostile_answers_stay_text(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        bad = "<script>alert(1)</script>\"'"
        world.fake.says(lambda body: streamed(events([row(bad)]), "policy-v0"))
        page = await say(client, await get(client, "/ui/chat"), f"{bad} & more")
        assert bad in newest(page).text and f"{bad} & more" in newest(page).text
        page = await say(client, page, "again")
        assert world.fake.bodies[-1]["messages"][1]["content"] == bad
        assert not page.main.all("script")

    browse(ChatWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal(503, "the engine cannot be reached at the moment; try again in 5 s"), "cannot be reached"),
        (refusal(400, "This model's maximum context length is 1024 tokens"), "maximum context length"),
        (refusal(429, "8 requests with this key are in flight"), "in flight"),
        (Response("oops", 500), "status 500"),
        (streamed(events([row("Half")], finish=None), "policy-v0"), "broken off"),
        (streamed([b'data: {"error": {"message": "the engine <broke> off"}}\n\n'], "policy-v0"), "the engine <broke>"),
    ],
)
def test_why_there_is_no_answer_is_said_in_place_and_the_message_stays(
    tmp_path: Path, answer: Response, says: str
) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        world.fake.says(lambda body: answer)
        page = await say(client, await get(client, "/ui/chat"), "Hello <you>")
        assert says in page.problem
        assert fields(page)["message"] == "Hello <you>" and json.loads(fields(page)["history"]) == []

    browse(ChatWorld(tmp_path), story)


def test_one_side_without_an_answer_stops_nothing_of_the_other(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        await world.publish("a")

        def answer(body: dict[str, Any]) -> Response:
            gone = body["model"] == "policy-v1"
            return (
                refusal(404, "model 'policy-v1' does not exist") if gone else streamed(events([row("Hi")]), "policy-v0")
            )

        world.fake.says(answer)
        page = await say(client, await get(client, "/ui/chat?a=1&b=0"), "Hello")
        sides = newest(page).all("section", "answer")
        assert "does not exist" in sides[0].text and "Hi" in sides[1].text
        assert fields(page)["message"] == "Hello"

    browse(ChatWorld(tmp_path), story)


def test_what_has_no_tokens_and_what_was_cut_say_so(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        world.fake.says(lambda body: streamed(events([]), "policy-v0"))
        page = await say(client, await get(client, "/ui/chat"), "Hello")
        assert "It said nothing." in newest(page).text
        world.fake.says(lambda body: streamed(events([row("a"), row("")], finish="length"), "policy-v0"))
        page = await say(client, page, "Hello")
        assert "cut at its largest number of tokens" in newest(page).text
        assert newest(page).one("p", "tokens").all("span")[1].text == "·"

    browse(ChatWorld(tmp_path), story)


def test_weights_that_are_broken_are_said_in_place(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        world.fake.says(lambda body: streamed(events([{**row("a"), "logprob": None}]), "policy-v0"))
        page = await say(client, await get(client, "/ui/chat"), "Hello")
        assert "is not a number; its weights are broken" in page.problem

    browse(ChatWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({"a": "7"}, 404, "policy-v7 does not exist"),
        ({"a": "<b>"}, 400, "'<b>' is not a version"),
        ({"b": "9"}, 404, "policy-v9 does not exist"),
        ({"temperature": "hot"}, 400, "temperature = 'hot'"),
        ({"temperature": "nan"}, 400, "temperature = 'nan'"),
        ({"temperature": "2.5"}, 400, "from 0 to 2"),
        ({"max_tokens": "0"}, 400, "max_tokens = '0'"),
        ({"max_tokens": "1000000"}, 400, "from 1 to 1024"),
        ({"colour": "red"}, 400, "colour = 'red'"),
        ({"message": "  "}, 400, "the message is empty"),
        ({"message": "x" * 20_001}, 400, "more than 20,000 characters"),
        ({"message": "x" * 300_000}, 400, "more than 200,000 bytes"),
        ({"history": "{"}, 400, "no conversation"),
        ({"history": '[{"message": 1}]'}, 400, "no conversation"),
    ],
)
def test_bad_input_is_said_in_place(tmp_path: Path, form: dict[str, str], status: int, says: str) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        answer = await post(client, "/ui/chat", **{"message": "Hello", **form})
        assert answer.status_code == status
        page = Page(answer)
        assert says in page.problem and page.main.one("form")
        assert not world.fake.bodies

    browse(ChatWorld(tmp_path), story)


def test_a_version_in_the_address_that_is_gone_is_said_in_place(tmp_path: Path) -> None:
    async def story(client: Client, world: ChatWorld) -> None:
        page = await get(client, "/ui/chat?a=3", 404)
        assert "policy-v3 does not exist" in page.problem and fields(page)["a"] == "policy"

    browse(ChatWorld(tmp_path), story)


def test_a_long_conversation_loses_its_oldest_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "HISTORY_BYTES", 1000)

    async def story(client: Client, world: ChatWorld) -> None:
        page = await get(client, "/ui/chat")
        for number in range(6):
            page = await say(client, page, f"{number}" * 200)
        kept = json.loads(fields(page)["history"])
        assert 1 <= len(kept) < 5 and kept[-1]["message"] == "5" * 200
        assert "The oldest turns were left out" in page.main.text

    browse(ChatWorld(tmp_path), story)


def test_whoever_looks_is_the_client_who_asks(tmp_path: Path) -> None:
    world = ChatWorld(tmp_path)
    with world.db:
        token = KeyStore(world.db).create("ops", "admin", models=["policy-v*"])[1]

    async def run() -> None:
        app = guarded(world.app(), world.db, required=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {token}", "accept": "text/html"}
        async with world, Client(transport=transport, base_url="http://daemon", headers=headers) as client:
            await post(client, "/ui/chat", message="Hello", a="0")
            (caller,) = world.fake.callers
            assert caller.name == "ops" and caller.may_ask("policy-v0") and not caller.may_ask("policy")

    asyncio.run(run())


def test_the_engine_stops_when_the_reader_leaves(tmp_path: Path) -> None:
    world = ChatWorld(tmp_path)
    left = asyncio.Event()

    async def answer(body: dict[str, Any], request: Request) -> Response:
        assert (await request.receive())["type"] == "http.disconnect"
        left.set()
        return Response(status_code=499)

    world.fake.answer = answer

    async def run() -> None:
        app = world.app()
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": b"message=Hello", "more_body": False},
            {"type": "http.disconnect"},
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if len(messages) > 1 else messages[0]

        async def send(message: Any) -> None: ...

        scope = {"type": "http", "method": "POST", "path": "/ui/chat", "query_string": b"", "headers": []}
        async with world:
            await app({**scope, "scheme": "http", "server": ("daemon", 80), "root_path": ""}, receive, send)
        assert left.is_set()

    asyncio.run(run())
