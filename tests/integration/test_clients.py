"""Clients that nobody here wrote, through the gateway to real vLLM."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.integration.serving import Serving, serving
from tests.random_adapter import random_adapter

QUESTION: Any = [{"role": "user", "content": "What is 2 + 3?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PROBLEMS = [("2 + 3 =", ["5", "6"], 0), ("4 + 4 =", ["9", "8"], 1), ("1 + 1 =", ["3", "2"], 1)]


def from_a_thread(engine: str, folder: Path, work: Callable[[Serving], None], *, adapter: Path | None = None) -> None:
    """Runs a client that blocks while the gateway serves it, with `adapter` as version 1."""

    async def run() -> None:
        async with serving(engine, folder) as served:
            if adapter is not None:
                await served.publish(adapter)
            await asyncio.to_thread(work, served)
            assert served.gateway.counts.failed == 0

    asyncio.run(run())


def test_openai_without_async(engine: str, tmp_path: Path) -> None:
    def work(served: Serving) -> None:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
            whole = api.chat.completions.create(model="policy", messages=QUESTION, max_tokens=8, temperature=0)
            stream = api.chat.completions.create(
                model="policy", messages=QUESTION, max_tokens=8, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content != ""
        assert chunks[-1].usage is not None and whole.usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    from_a_thread(engine, tmp_path, work)


def test_openai_with_tools(engine: str, tmp_path: Path) -> None:
    def work(served: Serving) -> None:
        asked: Any = {
            "model": "policy",
            "messages": QUESTION,
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "max_tokens": 120,
            "seed": 3,
        }
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
            (call,) = api.chat.completions.create(**asked).choices[0].message.tool_calls or []
            streamed = ""
            for chunk in api.chat.completions.create(**asked, stream=True):
                for part in chunk.choices[0].delta.tool_calls or []:
                    streamed += (part.function and part.function.arguments) or ""
        assert call.type == "function" and call.function.name == "weather"
        # What they are is the policy's business, and this one has random weights.
        assert isinstance(json.loads(call.function.arguments), dict)
        assert json.loads(streamed) == json.loads(call.function.arguments)

    from_a_thread(engine, tmp_path, work)


def test_openai_with_json(engine: str, tmp_path: Path) -> None:
    class Sum(BaseModel):
        correct: bool
        carried: bool

    def work(served: Serving) -> None:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
            parsed = api.chat.completions.parse(
                model="policy", messages=QUESTION, response_format=Sum, max_tokens=400, seed=1
            )
            assert isinstance(parsed.choices[0].message.parsed, Sum)
            free = api.chat.completions.create(
                model="policy", messages=QUESTION, response_format={"type": "json_object"}, max_tokens=40
            )
        # Random weights rarely close an object that may have any keys.
        assert (free.choices[0].message.content or "").lstrip().startswith("{")

    from_a_thread(engine, tmp_path, work)


def test_langchain(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "trained", tiny_policy, seed=41)

    def work(served: Serving) -> None:
        chat = ChatOpenAI(
            model="policy-v1",
            base_url=f"{served.url}/v1",
            api_key=SecretStr("none"),
            temperature=0,
            max_completion_tokens=8,
            max_retries=0,
        )
        answer = chat.invoke("What is 2 + 3?")
        assert answer.response_metadata["model_name"].startswith("policy-v1-")
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 8
        assert "".join(chunk.text for chunk in chat.stream("What is 2 + 3?")) == answer.text
        batch = chat.batch(["What is 2 + 3?"] * 3)
        assert [each.text for each in batch] == [answer.text] * 3
        assert asyncio.run(chat.ainvoke("What is 2 + 3?")).text == answer.text
        called = chat.bind_tools([WEATHER], tool_choice="weather").invoke("What is 2 + 3?", max_completion_tokens=120)
        assert isinstance(called, AIMessage)
        assert [call["name"] for call in called.tool_calls] == ["weather"]

    from_a_thread(engine, tmp_path, work, adapter=adapter)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of lm-eval on a local JSONL file: one judged by log-likelihood, one by what is generated."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": question, "choices": choices, "gold": gold} for question, choices, gold in PROBLEMS]
    data = folder / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
    (folder / "sums_choice.yaml").write_text(
        f"task: sums_choice\n{dataset}output_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\n'
        "metric_list:\n  - metric: acc\n"
    )
    (folder / "sums_generate.yaml").write_text(
        f"task: sums_generate\n{dataset}output_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{choices[gold]}}"\n'
        "generation_kwargs:\n  until: ['never']\n  max_gen_toks: 6\n  do_sample: false\n"
        "metric_list:\n  - metric: exact_match\n"
    )
    return folder


Outcome = tuple[dict[str, Any], list[Any]]
"""Metrics of a task, and what lm-eval logged for each problem."""


def lm_eval(kind: str, url: str, names: list[str], tasks: Path, model: Path, out: Path) -> list[Outcome]:
    arguments = f"model=policy,base_url={url},num_concurrent=2,max_retries=1,tokenized_requests=False"
    arguments += f",tokenizer_backend=huggingface,tokenizer={model}"
    argv = [sys.executable, "-m", "lm_eval", "--model", kind, "--model_args", arguments, "--tasks", ",".join(names)]
    argv += ["--include_path", str(tasks), "--output_path", str(out), "--log_samples"]
    if kind == "local-chat-completions":
        argv.append("--apply_chat_template")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tasks / "cache"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    outcomes: list[Outcome] = []
    for name in names:
        samples = [json.loads(line) for line in next(out.rglob(f"samples_{name}_*.jsonl")).read_text().splitlines()]
        assert len(samples) == len(PROBLEMS)
        outcomes.append((results[name], sorted(samples, key=lambda sample: sample["doc_id"])))
    return outcomes


def test_lm_eval_with_completions(engine: str, tiny_policy: Path, tasks: Path, tmp_path: Path) -> None:
    def work(served: Serving) -> None:
        url, names = f"{served.url}/v1/completions", ["sums_choice", "sums_generate"]
        scored, generated = lm_eval("local-completions", url, names, tasks, tiny_policy, tmp_path / "out")
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
            assert_scored(api, *scored)
            results, samples = generated
            assert "exact_match,none" in results
            for sample, (question, _, _) in zip(samples, PROBLEMS, strict=True):
                answer = api.completions.create(model="policy", prompt=question, max_tokens=6, temperature=0, seed=1234)
                assert sample["resps"][0][0] == answer.choices[0].text

    from_a_thread(engine, tmp_path, work)


def assert_scored(api: openai.OpenAI, results: dict[str, Any], samples: list[Any]) -> None:
    """Log-likelihoods are the engine's own logprobs of the choices."""
    right = 0
    for sample, (question, choices, gold) in zip(samples, PROBLEMS, strict=True):
        expected = []
        for choice in choices:
            answer = api.completions.create(
                model="base", prompt=f"{question} {choice}", max_tokens=1, echo=True, logprobs=1
            )
            shown = answer.choices[0].logprobs
            assert shown is not None and shown.token_logprobs is not None and shown.text_offset is not None
            begin, end = len(question), len(f"{question} {choice}")
            tokens = zip(shown.token_logprobs, shown.text_offset, strict=True)
            expected.append(sum(logprob for logprob, offset in tokens if begin <= offset < end))
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == pytest.approx(expected, abs=0.05)
        right += expected.index(max(expected)) == gold
    assert results["acc,none"] == pytest.approx(right / len(PROBLEMS))


def test_lm_eval_with_chat_completions(engine: str, tiny_policy: Path, tasks: Path, tmp_path: Path) -> None:
    def work(served: Serving) -> None:
        url = f"{served.url}/v1/chat/completions"
        [(results, samples)] = lm_eval(
            "local-chat-completions", url, ["sums_generate"], tasks, tiny_policy, tmp_path / "out"
        )
        assert "exact_match,none" in results
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
            for sample, (question, _, _) in zip(samples, PROBLEMS, strict=True):
                message: Any = [{"role": "user", "content": question}]
                answer = api.chat.completions.create(
                    model="policy", messages=message, max_tokens=6, temperature=0, seed=1234
                )
                assert sample["resps"][0][0] == answer.choices[0].message.content

    from_a_thread(engine, tmp_path, work)
