"""The CPU LoRA plugin inside real vLLM: base and adapters in one batch give what each gives alone."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from reheatd.config_tables import EngineSection
from reheatd.engine.client import EngineClient, Sample
from reheatd.engine.launch import detect_device, engine_command
from tests.known_settings import known_settings
from tests.random_adapter import random_adapter

PROMPTS = [f"Question {number}: what is {number * 3} plus {number * 7 + 1}?" for number in range(8)]
NAMES = tuple(f"mixed-v{version}" for version in range(1, EngineSection().max_loras + 1))
"""One for every slot: a kernel that takes "no adapter" for the last slot would go unseen while that one is empty."""

Answers = dict[str, list[Sample]]


@pytest.fixture(scope="module")
def adapters(engine: str, tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("mixed")
    paths = {name: random_adapter(folder / name, tiny_policy, seed=seed) for seed, name in enumerate(NAMES)}

    async def change(load: bool) -> None:
        async with EngineClient(engine) as client:
            for name, path in paths.items():
                await (client.load_adapter(name, path) if load else client.unload_adapter(name))

    asyncio.run(change(load=True))
    yield paths
    asyncio.run(change(load=False))


def difference(first: list[Sample], second: list[Sample]) -> float:
    """Largest difference of a logprob, over the states both answers went through."""
    return max(
        abs(logprob - other)
        for one, two in zip(first, second, strict=True)
        for logprob, other in list(zip(one.logprobs, two.logprobs, strict=False))[: _shared_tokens(one, two) or 1]
    )


def _shared_tokens(one: Sample, two: Sample) -> int:
    pairs = zip(one.token_ids, two.token_ids, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def texts(answers: list[Sample]) -> list[list[int]]:
    return [answer.token_ids for answer in answers]


def test_base_and_adapters_in_one_batch_answer_as_each_alone(engine: str, adapters: dict[str, Path]) -> None:
    models = ["base", *adapters]

    async def ask() -> tuple[Answers, Answers, Answers]:
        async with EngineClient(engine) as client:

            async def one(model: str, prompt: str) -> Sample:
                return await client.complete(model, prompt, max_tokens=24, temperature=0.0)

            alone = {model: [await one(model, prompt) for prompt in PROMPTS] for model in models}
            together = {
                model: await asyncio.gather(*(one(model, prompt) for _ in models for prompt in PROMPTS))
                for model in models
            }
            rows = await asyncio.gather(*(one(model, prompt) for prompt in PROMPTS for model in models))
            return alone, together, {model: rows[index :: len(models)] for index, model in enumerate(models)}

    alone, together, mixed = asyncio.run(ask())
    for model in models:
        # The engine's own noise: a batch of another size rounds another way.
        noise = difference(alone[model] * len(models), together[model])
        assert difference(alone[model], mixed[model]) <= noise + 1e-3, model
        steady = [index for index in range(len(PROMPTS)) if texts(alone[model])[index] == texts(together[model])[index]]
        assert [texts(mixed[model])[index] for index in steady] == [texts(alone[model])[index] for index in steady]
        assert steady, model
    for model in adapters:
        assert difference(alone[model], alone["base"]) > 0.1  # or the test would see nothing


def test_the_engine_serves_the_adapter_that_the_files_hold(
    engine: str, adapters: dict[str, Path], tiny_policy: Path
) -> None:
    """Scored in a mixed batch, against transformers with the adapter merged in fp32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompt_ids, completion_ids = list(range(40, 80)), list(range(100, 140))

    async def score() -> list[list[float]]:
        async with EngineClient(engine) as client:
            models = ["base", *adapters] * 2
            return await asyncio.gather(*(client.score(model, prompt_ids, completion_ids) for model in models))

    scored = asyncio.run(score())
    tokens = torch.tensor([prompt_ids + completion_ids])
    for index, name in enumerate(["base", *adapters]):
        policy = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
        if name != "base":
            policy = PeftModel.from_pretrained(policy, str(adapters[name]))
        with torch.no_grad():
            logprobs_TV = policy(tokens).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs_TV.gather(1, torch.tensor(completion_ids)[:, None]).squeeze(1)
        for row in (scored[index], scored[index + 1 + len(adapters)]):
            assert (torch.tensor(row) - expected).abs().mean() < 0.05, name  # bf16 against fp32
        if name != "base":
            assert (torch.tensor(scored[index]) - torch.tensor(scored[0])).abs().mean() > 0.2, name


@pytest.mark.skipif(detect_device() != "cpu", reason="the plugin acts on the CPU only")
def test_without_the_plugin_the_engine_does_not_start(tiny_policy: Path) -> None:
    command = engine_command(known_settings(), tiny_policy, 1, "cpu")
    started = subprocess.run(
        command.argv, env={**os.environ, **command.env, "VLLM_PLUGINS": ""}, capture_output=True, text=True
    )
    assert started.returncode == 1
    assert "leaves out reheatd_cpu_lora" in started.stderr.splitlines()[-1]
