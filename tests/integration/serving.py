"""The gateway on a real engine and a real socket, and a trainer's view of an adapter."""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapManager
from reheatd.api.errors import exception_handlers
from reheatd.database import connect
from reheatd.engine.client import EngineClient
from reheatd.engine.pool import EnginePool
from reheatd.engine.slots import AdapterSlots
from reheatd.gateway.app import Gateway
from reheatd.gateway.live_logprobs import LiveLogprobs
from tests.access import guarded
from tests.serving_pool import pool_of
from tests.waiting import HANGS_S


@dataclass
class Serving:
    url: str
    store: AdapterStore
    slots: AdapterSlots
    swaps: SwapManager
    gateway: Gateway
    pool: EnginePool
    engine: EngineClient
    """Speaks to the first engine itself."""
    openai: openai.AsyncOpenAI
    """Speaks to the gateway."""

    async def publish(self, adapter: Path, proof: list[ProofItem] | None = None) -> int:
        lineage = await self.store.publish(
            adapter, parent=0, base_model="tiny", base_digest="0", kind="imported", proof=proof or []
        )
        return lineage.version


class QuietServer(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """None: the test runner has its own."""


@asynccontextmanager
async def serving(
    engine_urls: str | list[str],
    folder: Path,
    live: LiveLogprobs | None = None,
    more: Callable[[AdapterSlots, sqlite3.Connection], list[Route]] = lambda slots, db: [],
) -> AsyncIterator[Serving]:
    """A gateway in front of engines with its store in `folder`; what it loaded is unloaded at the end.

    Args:
        more: Makes further routes that are served beside the gateway's.
    """
    db = connect(folder / "reheatd.sqlite3")
    store = AdapterStore(folder / "adapters", db)
    pool = pool_of(*([engine_urls] if isinstance(engine_urls, str) else engine_urls))
    async with pool.replicas[0].client as client:
        slots = AdapterSlots(pool, 4)
        swaps = SwapManager(store, slots, pool, proof_tolerance=0.1, drain_timeout_s=HANGS_S)
        gateway = Gateway(pool, slots, swaps, store, live)
        app = Starlette(routes=[*gateway.routes(), *more(slots, db)], exception_handlers=exception_handlers())
        listener = socket.create_server(("127.0.0.1", 0))
        server = QuietServer(uvicorn.Config(guarded(app, db), lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=HANGS_S) as api:
                yield Serving(url, store, slots, swaps, gateway, pool, client, api)
                for name in ("base", *slots.loaded()):
                    assert await slots.drain(name, 60)
        finally:
            server.should_exit = True
            await serving
            await gateway.close()
            for name in slots.loaded():
                await slots.unload(name)
            await pool.close()
            db.close()


def trainer_proof(model: Path, adapter: Path, *, prompts: int = 6, tokens: int = 32, seed: int = 0) -> list[ProofItem]:
    """Completions sampled with PEFT under `adapter`, with their logprobs under it and under the base, in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    policy: Any = PeftModel.from_pretrained(base, adapter).eval()

    def logprobs(ids: "torch.Tensor", start: int) -> list[float]:
        log_p_TV = torch.log_softmax(policy(ids).logits[0, start - 1 : -1].float(), -1)
        return log_p_TV.gather(-1, ids[0, start:, None])[:, 0].tolist()

    items = []
    with torch.no_grad():
        for _ in range(prompts):
            prompt = torch.randint(10, 250, (1, 12))
            ids = policy.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=tokens,
            )
            with policy.disable_adapter():
                base_logprobs = logprobs(ids, prompt.shape[1])
            items.append(
                ProofItem(
                    prompt_ids=prompt[0].tolist(),
                    completion_ids=ids[0, prompt.shape[1] :].tolist(),
                    logprobs=logprobs(ids, prompt.shape[1]),
                    base_logprobs=base_logprobs,
                )
            )
    return items
