"""The page Compare: two versions in figures, in options and in answers to the same prompts."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.chat_support import FakeGateway, events, refusal, row, streamed
from tests.unit.control_figures import entropy
from tests.unit.control_support import finish_one
from tests.unit.dashboard_support import Client, DashboardWorld, Page, browse, get, post
from tests.unit.report_support import job_report, passing


class CompareWorld(DashboardWorld):
    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        super().__init__(folder, **sections)
        self.fake = FakeGateway()
        self.gateway = self.fake.routes()

    async def publish_two(self) -> None:
        """Versions 1 and 2, of which the second one has a report and other options."""
        report = self.folder / "report-source"
        report.mkdir()
        (report / "report.json").write_text(job_report().model_dump_json())
        spec = {"steps": 10, "lora": {"rank": 16}, "learning_rate": 0.001, "output_dir": "/one", "job_id": "rl-1"}
        other = {"steps": 20, "lora": {"rank": 16}, "tau": 1.5, "output_dir": "/two", "job_id": "reheat-1"}
        await self.publish("a", kind="rl", spec=spec, entropy_after=entropy(0.8), accuracy_after=passing(20, 0.7))
        await self.publish(
            "b", report, parent=1, spec=other, entropy_after=entropy(1.6), accuracy_after=passing(24, 0.82)
        )


def table(page: Page, heading: str) -> dict[str, list[str]]:
    """The rows of a section's table, by their titles."""
    (section,) = [found for found in page.main.all("section") if found.all("h2") and found.one("h2").text == heading]
    rows = section.one("table").all("tr")
    return {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in rows[1:]}


def test_figures_and_options_stand_side_by_side(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        await world.publish_two()
        page = await get(client, "/ui/compare?a=1&b=policy-v2")
        assert page.one("h1").text == "Compare policy-v1 and policy-v2" and "policy-v1 and policy-v2" in page.title
        figures = table(page, "Figures")
        assert figures["Entropy on the probes, nats per token"] == ["0.800 [0.750, 0.850]", "1.600 [1.550, 1.650]"]
        assert figures["Accuracy, avg@1"][1].startswith("50.0%")
        assert figures["pass@4"] == ["70.0% [60.0%, 80.0%]", "82.0% [72.0%, 92.0%]"]
        assert figures["How it was made"] == ["rl, from policy-v0", "reheat, from policy-v1"]
        assert figures["KL from its parent, nats per token"] == ["–", "0.123"]
        assert figures["Gates"] == ["–", "–"]
        assert table(page, "Options that differ") == {
            "learning_rate": ["0.001", "–"],
            "steps": ["10", "20"],
            "tau": ["–", "1.5"],
        }
        assert "The same in both: 1." in page.main.text

    browse(CompareWorld(tmp_path), story)


def test_without_a_choice_what_is_served_is_compared_with_its_parent(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        await finish_one(world)
        page = await get(client, "/ui/compare")
        assert page.one("h1").text == "Compare policy-v0 and policy-v1"
        assert "delivery passed" in table(page, "Figures")["Gates"][1]
        chosen = [option.text for option in page.main.all("option") if "selected" in option.attributes]
        assert chosen[:2] == ["policy-v0, base", "policy-v1, served"]

    browse(CompareWorld(tmp_path), story)


def test_both_answer_the_same_prompts_with_the_same_random_numbers(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        await world.publish_two()
        answer = await post(client, "/ui/compare?a=1&b=2", prompt="Say <hi>", probes="2", temperature="0.5")
        page = Page(answer)
        assert answer.status_code == 200 and len(world.fake.bodies) == 6
        asked = {(body["model"], body["messages"][0]["content"]) for body in world.fake.bodies}
        assert asked == {
            (model, prompt)
            for model in ("policy-v1", "policy-v2")
            for prompt in ("Say <hi>", "What is 0 + 0?", "What is 1 + 1?")
        }
        assert len({body["seed"] for body in world.fake.bodies}) == 1
        answers = page.main.one("div", id="answers")
        assert [said.text for said in answers.all("p", "said")] == ["Say <hi>", "What is 0 + 0?", "What is 1 + 1?"]
        for pair in answers.all("div", "sides"):
            assert [side.one("h3").text for side in pair.all("section", "answer")] == ["policy-v1", "policy-v2"]
            assert all(re.search(r"I am policy-v\d↵ 1", side.text) for side in pair.all("section", "answer"))
            assert pair.all("span", "heat-0") or pair.all("span", "heat-4")
        assert page.main.one("textarea").text == "Say <hi>", "what was typed stays"
        form = page.main.one("form", method="post")
        assert form.attributes["action"] == form.attributes["hx-post"] == "/ui/compare?a=1&b=2"
        assert table(page, "Figures"), "the figures stay as well"

    browse(CompareWorld(tmp_path), story)


def test_a_version_that_is_deleted_meanwhile_is_said_in_place(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        await world.publish_two()
        await get(client, "/ui/compare?a=1&b=2")
        world.store.delete(1)
        page = await get(client, "/ui/compare?a=1&b=2")
        assert "version 1 does not exist" in page.problem
        assert table(page, "Figures")["Entropy on the probes, nats per token"] == ["–", "1.600 [1.550, 1.650]"]
        answer = await post(client, "/ui/compare?a=1&b=2", prompt="Hi")
        assert answer.status_code == 404 and not world.fake.bodies
        said = Page(answer).main.one("div", id="answers").text
        assert "policy-v1 does not exist; it was deleted" in said

    browse(CompareWorld(tmp_path), story)


def test_a_version_that_goes_while_it_is_asked_is_said_beside_the_others_answer(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        await world.publish_two()
        world.fake.says(
            lambda body: (
                refusal(404, "model 'policy-v1' does not exist")
                if body["model"] == "policy-v1"
                else streamed(events([row("Hi")]), "policy-v2")
            )
        )
        page = Page(await post(client, "/ui/compare?a=1&b=2", prompt="Hello", probes="0"))
        one, other = page.main.all("section", "answer")
        assert "policy-v1 model 'policy-v1' does not exist" in one.text and "Hi" in other.text

    browse(CompareWorld(tmp_path), story)


def test_a_damaged_report_is_said_in_place(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        await world.publish_two()
        (world.store.path(2) / "report" / "report.json").write_text("{")
        page = await get(client, "/ui/compare?a=1&b=2")
        assert "cannot be read as a report" in page.problem
        assert table(page, "Figures")["pass@4"][1].startswith("82.0%")

    browse(CompareWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({}, "nothing to ask"),
        ({"probes": "6"}, "probes = '6' is not a whole number from 0 to 5"),
        ({"probes": "-1"}, "probes = '-1'"),
        ({"prompt": "x" * 20_001}, "more than 20,000 characters"),
        ({"prompt": "hi", "temperature": "x"}, "temperature = 'x'"),
        ({"prompt": "hi", "max_tokens": "many"}, "max_tokens = 'many'"),
    ],
)
def test_bad_input_is_said_in_place(tmp_path: Path, form: dict[str, str], says: str) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        answer = await post(client, "/ui/compare", **form)
        assert answer.status_code == 400 and says in Page(answer).main.one("div", id="answers").text
        assert not world.fake.bodies

    browse(CompareWorld(tmp_path), story)


def test_a_choice_that_is_no_version_is_said_in_place(tmp_path: Path) -> None:
    async def story(client: Client, world: CompareWorld) -> None:
        page = await get(client, "/ui/compare?a=<i>&b=0")
        assert "'<i>' is not a version" in page.problem

    browse(CompareWorld(tmp_path), story)
