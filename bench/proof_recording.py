"""Records what a trainer and real engines say about the same tokens: `python -m bench.proof_recording`.

Adapters are trained by the loss of a reheat from several seeds, and kept at several steps. Each gets the proof items
that a job would make, in both number formats. Engines in both formats then score the items under the adapter itself and
under what it might be taken for. `bench.proof_rates` replays the recording.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.proof_rates import ANOTHER_BASE, FORMATS, RECORDING, STEP
from reheatd.adapters.evidence import next_difference
from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.proof import TOP_K
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.client import EngineClient
from reheatd.engine.policy_model import resolve_policy
from reheatd.json_lines import Messages
from reheatd.names import BASE_MODEL_NAME
from reheatd.options import LoraOptions, NumberFormat
from tests.engine_process import running_engine
from tests.random_adapter import random_adapter
from workers.losses import chunked_divergence
from workers.policy import Policy, TokenBatch
from workers.proof import COMPLETION_TOKENS, ITEMS, build_proof
from workers.sampling.rollout import Rollout

PROBES = Path(__file__).parent / "data" / "probes.jsonl"
LORA = LoraOptions(rank=8, alpha=16)
RUNS = ((1.5, 0), (1.5, 1), (0.6, 0), (0.6, 1))
"""Temperature of the teacher and seed of each training."""
STEPS = (6, 18)
"""Steps after which an adapter is kept."""
LEARNING_RATE = 5e-4
BATCH = 3
TRAINING_TOKENS = 48
NOISE = 0.02
"""Standard deviation of what another base's weights differ by."""
KV_CACHE = 256 << 20


@dataclass(frozen=True)
class Trained:
    """An adapter, and where it comes from."""

    folder: Path
    run: int
    step: int


def main(folder: Path) -> None:
    """Records into `RECORDING`. What `folder` holds from a run that was broken off is not made again."""
    model = resolve_policy(BUILTIN_POLICY)
    adapters = [Trained(folder / f"trained-{run}-{step}", run, step) for run in range(len(RUNS)) for step in STEPS]
    prompts = [json.loads(line)["messages"] for line in PROBES.read_text().splitlines()]
    if not all(adapter.folder.exists() for adapter in adapters):
        with running_engine(model, folder / "engine.log", kv_cache_bytes=KV_CACHE, dtype="float32") as url:
            samples = asyncio.run(_sampled(url, BASE_MODEL_NAME, None, prompts, TRAINING_TOKENS))
        for run in range(len(RUNS)):
            _train(model, run, samples, folder)
            print(f"{run + 1} of {len(RUNS)} trained", flush=True)
    parts = [folder / f"{name}.npz" for name in ("trainer", *FORMATS)]
    if not parts[0].exists():
        _trainers(model, adapters, prompts, folder, parts[0])
    for name, part in zip(FORMATS, parts[1:], strict=True):
        if not part.exists():
            _engine(model, adapters, name, folder, part)
    arrays: dict[str, np.ndarray] = {}
    for part in parts:
        with np.load(part) as loaded:
            arrays |= {key: loaded[key] for key in loaded.files}
    arrays = {
        key: values if values.dtype == np.int32 else np.round(values / STEP).astype(np.int32)
        for key, values in arrays.items()
    }
    np.savez_compressed(RECORDING, allow_pickle=False, **arrays)
    print(f"written to {RECORDING}")


def _trainers(model: Path, adapters: list[Trained], prompts: list[Messages], folder: Path, part: Path) -> None:
    """Lets each adapter answer, and makes proof items of the answers, in both formats and on another base."""
    with running_engine(model, folder / "engine.log", kv_cache_bytes=KV_CACHE) as url:
        rollouts = [
            asyncio.run(_sampled(url, f"asked-{index}", adapter.folder, prompts[: 2 * ITEMS], COMPLETION_TOKENS))
            for index, adapter in enumerate(adapters)
        ]
    another = _another_base(model, folder / "another-base")
    trainers: list[tuple[str, Path, NumberFormat]] = [(ANOTHER_BASE, another, "float32")]
    trainers += [(name, model, name) for name in FORMATS]
    arrays: dict[str, np.ndarray] = {}
    for index, adapter in enumerate(adapters):
        items: list[ProofItem] = []
        for name, base, dtype in trainers:
            policy = Policy.load(base, LORA, adapter.folder, dtype=dtype)
            items = build_proof(policy, rollouts[index])
            arrays[f"{index}/trainer {name}/new"] = _flat([item.logprobs for item in items])
            arrays[f"{index}/trainer {name}/base"] = _flat([item.base_logprobs for item in items])
        arrays[f"{index}/lengths"] = np.array(
            [(len(item.prompt_ids), len(item.completion_ids)) for item in items], dtype=np.int32
        )
        (folder / f"items-{index}.json").write_text(json.dumps([item.model_dump() for item in items]))
        print(f"{index + 1} of {len(adapters)} adapters have proof items", flush=True)
    np.savez(part, allow_pickle=False, **arrays)


def _engine(model: Path, adapters: list[Trained], dtype: NumberFormat, folder: Path, part: Path) -> None:
    """Lets an engine score the proof items under everything that might answer."""
    far = random_adapter(folder / "unrelated", model, rank=LORA.rank, seed=0, size=0.1)
    arrays: dict[str, np.ndarray] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_engine(model, folder / "engine.log", kv_cache_bytes=KV_CACHE, dtype=dtype) as url,
    ):
        for index, adapter in enumerate(adapters):
            items = [ProofItem(**item) for item in json.loads((folder / f"items-{index}.json").read_text())]
            recorded = asyncio.run(_record(url, adapter, adapters, far, items, Path(scratch)))
            arrays |= {f"{index}/engine {dtype}/{key}": value for key, value in recorded.items()}
            print(f"{dtype}: {index + 1} of {len(adapters)} adapters", flush=True)
    np.savez(part, allow_pickle=False, **arrays)


async def _sampled(
    url: str, name: str, adapter: Path | None, prompts: Sequence[Messages], tokens: int
) -> list[Rollout]:
    async with EngineClient(url) as client:
        if adapter is not None:
            await client.load_adapter(name, adapter)
        answers = await asyncio.gather(
            *(client.chat(name, prompt, max_tokens=tokens, seed=seed) for seed, prompt in enumerate(prompts))
        )
        if adapter is not None:
            await client.unload_adapter(name)
    return [
        Rollout(s.prompt_ids, s.token_ids, s.text, s.logprobs, name, s.finish_reason == "length") for (s,) in answers
    ]


def _train(model: Path, run: int, samples: list[Rollout], folder: Path) -> None:
    tau, seed = RUNS[run]
    policy = Policy.load(model, LORA, dtype="bfloat16", seed=seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    order = np.random.default_rng(seed)
    for step in range(1, STEPS[-1] + 1):
        chosen = [samples[i] for i in order.choice(len(samples), BATCH, replace=False)]
        batch = TokenBatch.build([(rollout.prompt_ids, rollout.token_ids) for rollout in chosen], policy.device)
        with policy.as_base():
            teacher = policy.hidden(batch)
        loss = chunked_divergence(policy.hidden(batch), policy.head_VD, tau=tau, kind="forward_kl", teacher_TD=teacher)[
            0
        ].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in STEPS:
            policy.save(folder / f"trained-{run}-{step}", model)


def _another_base(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    generator = torch.Generator().manual_seed(0)
    with safe_open(model / "model.safetensors", framework="pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (not a dictionary)
    noisy = {
        name: (w + NOISE * w.std() * torch.randn(w.shape, generator=generator)).to(w.dtype)
        for name, w in tensors.items()
    }
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def _record(
    url: str, mine: Trained, adapters: list[Trained], far: Path, items: list[ProofItem], tmp: Path
) -> dict[str, np.ndarray]:
    (later,) = [a.folder for a in adapters if a.run == mine.run and a.step != mine.step]
    (twin,) = [
        a.folder for a in adapters if a.run != mine.run and RUNS[a.run][0] == RUNS[mine.run][0] and a.step == mine.step
    ]
    wrong = {
        "not loaded": _scaled(mine.folder, 1e-6, tmp / "nothing"),
        "half": _scaled(mine.folder, 0.5, tmp / "half"),
        "double": _scaled(mine.folder, 2.0, tmp / "double"),
        "another step": later,
        "another seed": twin,
        "unrelated": far,
    }
    found: dict[str, list[list[float]]] = {}
    nexts: dict[str, list[dict[int, float]]] = {}
    name = f"delivered {mine.folder.name}"
    async with EngineClient(url) as client:
        found["base"] = await _scores(client, BASE_MODEL_NAME, items)
        await client.load_adapter(name, mine.folder)
        scores = await asyncio.gather(
            *(client.score_and_next(name, item.prompt_ids, item.completion_ids, top_k=TOP_K) for item in items)
        )
        found["delivered"] = [score.logprobs for score in scores]
        computed = [score.next for score in scores]
        nexts["cached"] = await _nexts(client, name, items)
        await client.unload_adapter(name)
        for kind, folder in wrong.items():
            name = f"{kind} {mine.folder.name}"
            place = Path(shutil.copytree(folder, tmp / name))
            await client.load_adapter(name, place)
            if kind != "not loaded":
                found[kind] = await _scores(client, name, items)
            await _nexts(client, name, items)  # fills the prefix cache
            await client.unload_adapter(name)
            for file in mine.folder.iterdir():
                shutil.copy(file, place)
            await client.load_adapter(name, place)
            nexts[f"stale {kind}"] = await _nexts(client, name, items)
            await client.unload_adapter(name)
    found["not loaded"] = found["base"]
    differences = {
        key: np.array([next_difference(*pair) for pair in zip(computed, rows, strict=True)])
        for key, rows in nexts.items()
    }
    return {key: _flat(rows) for key, rows in found.items()} | differences


def _ids(item: ProofItem) -> list[int]:
    return [*item.prompt_ids, *item.completion_ids]


async def _scores(client: EngineClient, name: str, items: list[ProofItem]) -> list[list[float]]:
    return list(await asyncio.gather(*(client.score(name, item.prompt_ids, item.completion_ids) for item in items)))


async def _nexts(client: EngineClient, name: str, items: list[ProofItem]) -> list[dict[int, float]]:
    return list(await asyncio.gather(*(client.next_logprobs(name, _ids(item), top_k=TOP_K) for item in items)))


def _scaled(adapter: Path, factor: float, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora_alpha"] *= factor
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
