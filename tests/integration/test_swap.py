"""The swap protocol on real vLLM, with a PEFT model as the trainer."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from reheatd.adapters.evidence import Proof
from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.proof import prove
from reheatd.adapters.validate import validate_adapter
from reheatd.engine.client import EngineClient
from reheatd.errors import AdapterInvalidError, DeliveryError, EngineError
from reheatd.names import parse_version
from tests.integration.serving import Serving, serving, trainer_proof
from tests.random_adapter import random_adapter

QUESTION: Any = [{"role": "user", "content": "What is 2 + 3?"}]


def scale_alpha(adapter: Path, factor: float) -> None:
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * factor}))


@pytest.mark.parametrize("size", [0.01, 0.15], ids=["short training", "long training"])
def test_a_delivered_adapter_is_proven(size: float, engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "trained", tiny_policy, seed=1, size=size)
    validate_adapter(adapter, tiny_policy, max_rank=16)
    proof = trainer_proof(tiny_policy, adapter)

    async def body() -> Proof:
        async with serving(engine, tmp_path) as served:
            report = await served.swaps.promote(await served.publish(adapter, proof))
            assert report.proof is not None
            return report.proof

    report = asyncio.run(body())
    print(report)
    assert report.slope == pytest.approx(1, abs=0.1)
    assert report.mean_difference < 0.05


@pytest.mark.parametrize("fault", ["scaled twice", "scaled by half", "another's weights", "not loaded"])
def test_what_is_not_the_trained_adapter_is_refused(fault: str, engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "trained", tiny_policy, seed=2)
    proof = trainer_proof(tiny_policy, adapter)
    if fault == "scaled twice":
        scale_alpha(adapter, 2)
    elif fault == "scaled by half":
        scale_alpha(adapter, 0.5)
    elif fault == "another's weights":
        random_adapter(adapter, tiny_policy, seed=3)
    else:
        scale_alpha(adapter, 1e-6)
    asyncio.run(is_refused(engine, tmp_path, adapter, proof, DeliveryError))


def test_an_adapter_trained_on_another_base_is_refused(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_policy, other)
    generator = torch.Generator().manual_seed(5)
    with safe_open(other / "model.safetensors", framework="pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (not a dictionary)
    noisy = {name: (w + 0.02 * torch.randn(w.shape, generator=generator)).to(w.dtype) for name, w in tensors.items()}
    save_tensors(noisy, other / "model.safetensors", metadata={"format": "pt"})
    adapter = random_adapter(tmp_path / "trained", other, seed=6)
    validate_adapter(adapter, tiny_policy, max_rank=16)  # nothing in the files gives it away
    asyncio.run(is_refused(engine, tmp_path, adapter, trainer_proof(other, adapter), DeliveryError))


def test_a_cache_that_other_weights_have_filled_is_noticed(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    """What the protocol never does: new weights under a name and path that answers were cached for."""
    folder = random_adapter(tmp_path / "served", tiny_policy, seed=7)
    random_adapter(tmp_path / "new", tiny_policy, seed=8)
    proof = trainer_proof(tiny_policy, tmp_path / "new", tokens=48)

    async def body() -> None:
        async with EngineClient(engine) as client:
            await client.load_adapter("stale", folder)
            for item in proof:
                await client.next_logprobs("stale", [*item.prompt_ids, *item.completion_ids], top_k=1)
            await client.unload_adapter("stale")
            for file in (tmp_path / "new").iterdir():
                shutil.copy(file, folder)
            await client.load_adapter("stale", folder)
            with pytest.raises(DeliveryError, match="prefix cache that other weights have filled"):
                await prove(client, "stale", proof, tolerance=0.1)
            await client.unload_adapter("stale")
            # Under a path and a name of its own the same adapter is what was trained.
            await client.load_adapter("fresh", tmp_path / "new")
            await prove(client, "fresh", proof, tolerance=0.1)
            await client.unload_adapter("fresh")

    asyncio.run(body())


async def is_refused(engine: str, folder: Path, adapter: Path, proof: list[ProofItem], error: type[Exception]) -> None:
    async with serving(engine, folder) as served:
        version = await served.publish(adapter, proof)
        with pytest.raises(error):
            await served.swaps.promote(version)
        assert (served.swaps.promoted, served.slots.loaded()) == (0, [])
        assert served.store.path(version).name not in await served.engine.adapters()
        answer = await served.openai.chat.completions.create(model="policy", messages=QUESTION, max_tokens=4)
        assert answer.model == "base"


class Load:
    """Clients that stream greedily from `model` until `stop`; every answer is held against its version's reference."""

    def __init__(self, served: Serving, reference: dict[str, list[float]]) -> None:
        self.served = served
        self.reference = reference
        self.stop = asyncio.Event()
        self.answers: dict[str, int] = {}
        self.largest_difference = 0.0

    async def run(self, model: str) -> None:
        while not self.stop.is_set():
            version, logprobs = await ask(self.served, model)
            differences = np.abs(np.subtract(logprobs, self.reference[version]))
            # A near tie may go the other way in another batch; up to there every token's logprob has to agree.
            split = int(np.argmax(differences > 0.1)) if (differences > 0.1).any() else len(differences)
            assert split >= 2, f"{version} answered {logprobs}, alone it answers {self.reference[version]}"
            self.largest_difference = max(self.largest_difference, float(differences[:2].max()))
            self.answers[version] = self.answers.get(version, 0) + 1


async def ask(served: Serving, model: str) -> tuple[str, list[float]]:
    """Version that answered, by its header, and the logprobs of the greedy tokens."""
    raw = await served.openai.chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, max_tokens=16, temperature=0, logprobs=True, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    version = raw.headers["x-reheatd-version"]
    logprobs: list[float] = []
    async for chunk in raw.parse():
        assert chunk.model == ("base" if version == "policy-v0" else served.store.path(parse_version(version)).name)
        for choice in chunk.choices:
            logprobs += [token.logprob for token in (choice.logprobs and choice.logprobs.content) or []]
    assert len(logprobs) == 16
    return version, logprobs


def test_swaps_under_load_fail_no_request_and_mix_no_versions(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    adapters = [random_adapter(tmp_path / f"trained-{seed}", tiny_policy, seed=seed) for seed in (11, 12, 13)]
    proofs = [trainer_proof(tiny_policy, adapter) for adapter in adapters]

    async def body() -> Load:
        async with serving(engine, tmp_path) as served:
            reference = {"policy-v0": (await ask(served, "base"))[1]}
            for adapter, proof in zip(adapters, proofs, strict=True):
                name = f"policy-v{await served.publish(adapter, proof)}"
                reference[name] = (await ask(served, name))[1]
            firsts = sorted(logprobs[0] for logprobs in reference.values())
            assert min(np.diff(firsts)) > 0.1  # so that a request served by another version shows
            load = Load(served, reference)
            clients = [asyncio.create_task(load.run("policy")) for _ in range(5)]
            clients += [asyncio.create_task(load.run(pinned)) for pinned in ("base", "policy-v1")]
            seconds = []
            for change in (1, 2, 3, None, 0, 3):
                promoting = served.swaps.rollback() if change is None else served.swaps.promote(change)
                report = await promoting
                assert report.to_version == (2 if change is None else change)
                seconds.append(report.seconds)
                settled = load.answers.copy()
                while load.answers == settled:
                    await asyncio.wait(clients, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
                    assert not any(client.done() for client in clients), [client for client in clients if client.done()]
            load.stop.set()
            await asyncio.gather(*clients)
            assert served.gateway.counts.failed == 0
            assert set(served.slots.loaded()) <= {"policy-v1", "policy-v3"}
            print("seconds to flip:", [round(second, 2) for second in seconds])
            return load

    load = asyncio.run(body())
    print("answers:", load.answers, "largest difference of the first two logprobs:", load.largest_difference)
    assert set(load.answers) == {"policy-v0", "policy-v1", "policy-v2", "policy-v3"}


def test_the_next_daemon_serves_the_promoted_version(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "trained", tiny_policy, seed=21)

    async def first() -> list[float]:
        async with serving(engine, tmp_path) as served:
            await served.swaps.promote(await served.publish(adapter), prove_delivery=False)
            return (await ask(served, "policy"))[1]

    async def second() -> tuple[str, list[float]]:
        async with serving(engine, tmp_path) as served:
            await served.swaps.restore()
            await served.swaps.admit(served.pool.replicas[0])
            return await ask(served, "policy")

    before = asyncio.run(first())
    version, after = asyncio.run(second())
    assert version == "policy-v1"
    assert after[:2] == pytest.approx(before[:2], abs=0.1)


# The last test of the last module that uses this engine: the NaN that it leaves in the KV cache get into the answers of
# whoever is given those blocks next.
def test_an_adapter_with_nan_is_refused(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "trained", tiny_policy, seed=2)
    proof = trainer_proof(tiny_policy, adapter)
    weights = adapter / "adapter_model.safetensors"
    save_file({name: values * np.nan for name, values in load_file(weights).items()}, weights)
    with pytest.raises(AdapterInvalidError, match="not finite"):
        validate_adapter(adapter, tiny_policy, max_rank=16)
    # Even where validation would have been left out.
    asyncio.run(is_refused(engine, tmp_path, adapter, proof, EngineError))
