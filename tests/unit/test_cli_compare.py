"""`reheatd compare` and `reheatd open`, against a daemon's answers."""

import json
import webbrowser
from typing import Any

import pytest

from cli import render
from cli.version_figures import Figures
from reheatd.adapters.lineage import Lineage, VersionInfo
from reheatd.api.schemas import AdapterList, EntropyView, VersionView
from tests.unit.control_figures import accuracy, entropy, window
from tests.unit.report_support import passing
from tests.unit.status_figures import BASELINE, status
from tests.unit.test_cli_commands import JOB, FakeDaemon, fake_daemon, reheatd


def lineage(version: int, parent: int, **fields: Any) -> Lineage:
    made: dict[str, Any] = {"base_model": "m", "base_digest": "0", "digest": "0", "kind": "rl"}
    return Lineage(version=version, parent=parent, **made | fields)


LINEAGES = {
    0: None,
    1: lineage(1, 0, kind="reheat", job_id="j1", entropy_after=entropy(1.5), accuracy_after=accuracy(20),
               accuracy_base=accuracy(10)),
    2: lineage(2, 1, job_id="gone", entropy_after=entropy(0.9), accuracy_after=accuracy(30)),
    3: lineage(3, 9),
}  # fmt: skip
GATES = [{"name": name, "outcome": outcome, "detail": ""} for name, outcome in
         (("entropy", "passed"), ("accuracy", "no_evidence"))]  # fmt: skip
GATED = {**JOB, "status": "succeeded", "version": 1, "gates": GATES}
CHAT = "POST /v1/chat/completions"


def completion(text: str, reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": {"completion_tokens": 5}}


def answers(**more: list[tuple[int, Any]]) -> dict[str, list[tuple[int, Any]]]:
    infos = [VersionInfo(version=n, name=f"policy-v{n}", state="retired", lineage=each) for n, each in LINEAGES.items()]
    views = {
        f"GET /reheatd/v1/adapters/{info.version}": VersionView(**dict(info), report=None, report_dir=None)
        for info in infos
    }
    series = EntropyView(
        baseline=BASELINE, threshold=None, max_tokens=None, windows=[window(2, "ok", 1.1)], sources=[], learning=None
    )
    missing = {"error": {"message": "no such job", "type": "x", "code": "not_found", "param": "job_id"}}
    models = {
        **views,
        "GET /reheatd/v1/adapters": AdapterList(promoted=2, adapters=infos),
        "GET /reheatd/v1/status": status(),
        "GET /reheatd/v1/entropy?last=1000": series,
    }
    return {
        **{route: [(200, model.model_dump(mode="json"))] for route, model in models.items()},
        "GET /reheatd/v1/jobs/j1": [(200, GATED)],
        "GET /reheatd/v1/jobs/gone": [(404, missing)],
        **more,
    }


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.console, "_width", 160)


def rows(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_two_versions_side_by_side() -> None:
    with fake_daemon(**answers()) as url:
        shown = rows(reheatd("compare", "1", "policy-v2", "--url", url).stdout)
    assert shown[0] == "policy-v1 policy-v2 change"
    assert "kind reheat rl" in shown
    # Version 2 has a window of its own, which is newer than what its job measured.
    assert "entropy 1.500 [1.450, 1.550] 1.100 [1.050, 1.150] -0.400, x 0.73" in shown
    (avg,) = [row for row in shown if row.startswith("avg@1")]
    assert avg.startswith("avg@1 42% [29%, 56%] 62% [48%, 75%] +20.8% [") and avg.endswith("90%")
    assert "gate entropy passed -" in shown and "gate accuracy no evidence -" in shown
    assert "lineage policy-v1 (reheat) <- policy-v0 (base)" in shown
    assert "lineage policy-v2 (rl) <- policy-v1 (reheat) <- policy-v0 (base)" in shown


def test_the_base_has_the_baseline_and_what_jobs_measured_of_it() -> None:
    with fake_daemon(**answers()) as url:
        shown = rows(reheatd("compare", "base", "1", "--url", url).stdout)
        told = json.loads(reheatd("compare", "3", "base", "--json", "--url", url).stdout)
    assert shown[0] == "policy-v0 policy-v1 change"
    assert any(row.startswith("entropy 2.110 [1.868, 2.352] 1.500") for row in shown)
    assert any(row.startswith("avg@1 21%") for row in shown)
    assert told["versions"][0]["forebears"] == ["policy-v9 (deleted)"]
    assert told["versions"][1]["kind"] == "base" and told["asked"] == []


def test_rates_on_other_problems_are_not_paired() -> None:
    mine, its = (
        Figures(n, "retired", "rl", None, None, found) for n, found in ((1, passing(20, 0.7)), (2, accuracy(9)))
    )
    assert its.gain(mine, "avg@1").endswith("90%") and its.gain(mine, "pass@4") == ""
    other = Figures(3, "retired", "rl", None, None, accuracy(9, problems=30))
    assert other.gain(its, "avg@1").endswith("(other problems)")
    assert Figures(4, "lost", "lost", None, None, None).gain(mine, "avg@1") == ""


def test_both_answer_the_same_prompts() -> None:
    told = {CHAT: [(200, completion("four")), (200, completion("It is 4", "length")), (200, completion("same"))]}
    options = ("--ask", "What is 2 + 2?", "--ask", "Again?", "--max-tokens", "9", "--seed", "3")
    with fake_daemon(**answers(**told)) as url:
        shown = rows(reheatd("compare", "1", "base", *options, "--url", url).stdout)
    asked = [body for route, body in FakeDaemon.asked if route == CHAT]
    assert [body["model"] for body in asked] == ["policy-v1", "base"] * 2
    assert asked[0] == {
        "model": "policy-v1", "messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 9,
        "temperature": 0.0, "seed": 3,
    }  # fmt: skip
    begin = shown.index("user: What is 2 + 2?")
    assert shown[begin + 1 : begin + 5] == ["policy-v1 5 tokens", "four", "policy-v0 5 tokens, cut off", "It is 4"]
    assert shown[shown.index("user: Again?") + 1 :] == ["policy-v1 and policy-v0 alike 5 tokens", "same"]


def test_prompts_come_from_the_task_of_the_configuration() -> None:
    with fake_daemon(**answers(**{CHAT: [(200, completion("4"))]})) as url:
        told = json.loads(reheatd("compare", "1", "2", "--prompts", "3", "--json", "--url", url).stdout)
    assert len(told["asked"]) == 3 and len({json.dumps(each["messages"]) for each in told["asked"]}) == 3
    assert told["asked"][0]["answers"]["policy-v2"] == {"text": "4", "tokens": 5, "cut_off": False}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["1", "v1"], "the same version"),
        (["1", "newest"], "'newest' is not a version"),
        (["1", "2", "--ask", "x", "--gateway", "http://127.0.0.1:9"], "http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments: list[str], says: str) -> None:
    with fake_daemon(**answers()) as url:
        done = reheatd("compare", *arguments, "--url", url)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_open_shows_the_dashboard_or_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with fake_daemon(**{"GET /health": [(200, {"status": "ready"})]}) as url:
        done = reheatd("open", "--url", url)
        assert (done.stdout, opened) == (f"{url}/\n", [])
        monkeypatch.setenv("DISPLAY", ":0")
        assert reheatd("open", "--url", url).stdout == f"opened {url}/\n"
        assert json.loads(reheatd("open", "--json", "--url", url).stdout) == {"url": f"{url}/", "opened": True}
    assert opened == [f"{url}/"] * 2
    away = reheatd("open", "--url", "http://127.0.0.1:9")
    assert away.returncode == 2 and len(opened) == 2
