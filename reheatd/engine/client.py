"""HTTP client of the engine. It also works with the gateway, which passes everything on."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from reheatd.access.client import tls_for
from reheatd.engine.patience import Patience
from reheatd.errors import AdapterInvalidError, EngineError, EngineTakenError, EngineUnavailableError, NotFoundError
from reheatd.names import BASE_MODEL_NAME

IDLE_CONNECTION_S = 2.0
"""How long an idle connection to the engine is kept for the next request, in seconds. vLLM closes it after 5 s, and a
request that is sent at that moment is lost."""
READY_POLL_S = 0.25
HEALTH_TIMEOUT_S = 5.0
ANSWER_S = 600.0
"""Longest wait for an answer, in seconds, unless it has so many tokens that it may take longer."""
FIRST_TOKEN_S = 60.0
"""Longest wait for the token that proves an engine ready, in seconds; an engine whose core has just died never answers.
Each further try waits twice as long as the one before, for an engine that is merely slow."""
WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Options of every request that does not ask for less, because an engine that the daemon did not start may take other
defaults from its model's folder."""


@dataclass(frozen=True)
class TokenLogprobs:
    """One sampled token, with the largest raw logprobs (temperature 1) of its distribution, in nats."""

    logprob: float
    top: list[float]
    """The k largest logprobs in descending order, whatever token was sampled."""


@dataclass(frozen=True)
class Sample:
    """One completion."""

    prompt_ids: list[int]
    token_ids: list[int]
    text: str
    logprobs: list[float]
    """Raw logprobs of the sampled tokens, at temperature 1 and before penalties, in nats."""
    tokens: list[TokenLogprobs]
    """One entry per token if top logprobs were asked for, else empty."""
    finish_reason: str


@dataclass(frozen=True)
class Score:
    """Logprobs of a given completion, in nats."""

    logprobs: list[float]
    """One per token of the completion."""
    next: dict[int, float]
    """The tokens that are likeliest after the completion, and their logprobs."""


class EngineClient:
    """Speaks vLLM's HTTP API. Use it as an async context manager, or call `close`.

    Every method raises an `EngineError` if the engine cannot be reached or refuses.

    Args:
        base_url: URL of the engine or of the gateway, e.g. http://127.0.0.1:8000.
        owned: Folder that holds all adapters of this daemon. An engine with an adapter from elsewhere serves another
            daemon. None if adapters are not this client's business.
        api_key: Key that the server asks for; None if it asks for none.
    """

    def __init__(self, base_url: str, *, owned: Path | None = None, api_key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.authorization = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        """Headers that prove to the server who asks."""
        self.patience = Patience()
        self._owned = owned
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "EngineClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def is_healthy(self) -> bool:
        try:
            return await self.health() == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until the engine can generate a token.

        Raises:
            EngineError: It cannot within `timeout_s` seconds; the message has the engine's last answer.
        """
        last, patience_s = "no answer", FIRST_TOKEN_S

        async def attempt() -> None:
            nonlocal last, patience_s
            if not await self.is_healthy():
                raise EngineError(last)
            try:
                async with asyncio.timeout(patience_s):
                    await self.complete(BASE_MODEL_NAME, "1", max_tokens=1)
            except EngineError as error:
                last = error.message
                if error.upstream_status == 401:
                    last += "; engine.api_key_file must name the file with the engine's key"
                raise
            except TimeoutError as error:
                last = f"healthy, but no token within {patience_s:.0f} s"
                patience_s *= 2
                raise EngineError(last) from error

        # This polls, because nothing tells when another process starts to listen.
        retrying = AsyncRetrying(retry=retry_if_exception_type(EngineError), wait=wait_fixed(READY_POLL_S))
        try:
            async with asyncio.timeout(timeout_s):
                await retrying(attempt)
        except TimeoutError as error:
            raise EngineError(
                f"the engine at {self.base_url} generated no token within {timeout_s:.0f} s ({last}); see its log, "
                "or raise engine.startup_timeout_s"
            ) from error

    async def adapters(self) -> dict[str, Path]:
        """The registered adapters, with the folder that each was loaded from.

        Raises:
            EngineTakenError: One of them is not this daemon's.
        """
        models = (await self._request("GET", "/v1/models"))["data"]
        adapters = {model["id"]: Path(model["root"]) for model in models if model.get("parent")}
        for name, path in adapters.items():
            if self._owned is not None and not path.is_relative_to(self._owned):
                raise EngineTakenError(
                    f"the engine at {self.base_url} serves another daemon: its adapter {name} was loaded from {path}, "
                    f"which is not in {self._owned}; give each daemon an engine of its own, or restart the engine if "
                    "that daemon is gone"
                )
        return adapters

    async def max_model_len(self, model: str) -> int:
        """Largest number of tokens of prompt and answer together that the engine takes.

        Raises:
            EngineError: The server does not say so.
        """
        models = (await self._request("GET", "/v1/models"))["data"]
        said = next((entry.get("max_model_len") for entry in models if entry["id"] == model), None)
        if isinstance(said, int):
            return said
        silent = EngineError(
            f'GET {self.base_url}/v1/models says no max_model_len of {model}, which max_tokens = "auto" needs; '
            "run the same version of reheatd on daemon and workers, or set rl.max_tokens and reheat.max_tokens"
        )
        silent.upstream_status = 200  # to ask again would not help
        raise silent

    async def load_adapter(self, name: str, path: Path) -> None:
        """Registers the adapter in `path` under `name`.

        If the engine already has the name, from a daemon that ran before this one, the name is unregistered first.
        Requests in flight on it end as they began.

        Raises:
            AdapterInvalidError: The engine refuses the files; the message is the engine's.
            EngineTakenError: The engine holds adapters of another daemon.
        """
        body = {"lora_name": name, "lora_path": str(path)}
        if name in await self.adapters():
            await self.unload_adapter(name)
        try:
            await self._request("POST", "/v1/load_lora_adapter", body)
        except (NotFoundError, EngineError) as error:
            # vLLM answers 500 both if the files are at fault and if its core has died; then its health check fails.
            answered = isinstance(error, NotFoundError) or error.upstream_status not in (None, 429, 503)
            if answered and await self.is_healthy():
                raise AdapterInvalidError(f"the engine refuses adapter {name} from {path}: {error.message}") from error
            raise

    async def unload_all(self) -> None:
        """Unregisters all adapters that a daemon which ran before this one has left.

        Raises:
            EngineTakenError: The engine holds adapters of another daemon.
        """
        for name in await self.adapters():
            await self.unload_adapter(name)

    async def unload_adapter(self, name: str) -> None:
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int,
        top_k: int = 0,
        seed: int | None = None,
        xargs: Mapping[str, str] | None = None,
    ) -> list[Sample]:
        """Samples `n` completions of a chat. With `top_k` > 0, each token carries its k largest logprobs.

        The chat becomes token ids first, and these are completed. So `Sample.text` is all that was sampled, whatever an
        engine's parsers for reasoning or tools would take out of an answer.

        Args:
            top_p: Share of the probability that is sampled from. Below 1, the samples say nothing about entropy.
            xargs: Arguments for the engine's logits processors.
        """
        ids = await self.render(model, messages)
        sampling = {"n": n, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
        return await self._sample(model, ids, top_k, sampling | ({"vllm_xargs": dict(xargs)} if xargs else {}))

    async def render(self, model: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids of a chat by the engine's chat template, up to where the answer begins."""
        body = {"model": model, "messages": list(messages), "add_generation_prompt": True}
        return (await self._request("POST", "/tokenize", body))["tokens"]

    async def complete(
        self,
        model: str,
        prompt: str | list[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
    ) -> Sample:
        """Samples one completion of a text or of token ids; `top_k` works as in `chat`."""
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        return (await self._sample(model, prompt, top_k, options))[0]

    async def _sample(
        self, model: str, prompt: str | list[int], top_k: int, options: Mapping[str, Any]
    ) -> list[Sample]:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            **WHOLE_DISTRIBUTION,
            # One more than wanted, because a token drawn from outside the top displaces the last entry.
            "logprobs": top_k + 1 if top_k else 0,
            "return_token_ids": True,
            # The top logprobs come in a dictionary keyed by text, where two tokens with equal text would be one.
            "return_tokens_as_token_ids": True,
            **options,
        }
        began = time.monotonic()
        limit_s = max(ANSWER_S, self.patience.seconds(body["max_tokens"]))
        answer = await self._request("POST", "/v1/completions", body, limit_s)
        samples = [_sample_of(choice, top_k) for choice in answer["choices"]]
        self.patience.learn(max(len(sample.token_ids) for sample in samples), time.monotonic() - began)
        return samples

    async def score(self, model: str, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
        """The raw logprob (temperature 1) of each completion token, given the prompt and the tokens before, in nats."""
        return (await self.score_and_next(model, prompt_ids, completion_ids)).logprobs

    async def score_and_next(
        self, model: str, prompt_ids: list[int], completion_ids: list[int], *, top_k: int = 0
    ) -> Score:
        """Scores as `score`, and also says which tokens would follow the completion.

        The engine computes every token anew and reads nothing from its prefix cache.
        """
        body = {"prompt_logprobs": 0}
        choice = await self._next([*prompt_ids, *completion_ids], model, top_k, body)
        entries = choice["prompt_logprobs"][len(prompt_ids) :]
        logprobs = [entry[str(token)]["logprob"] for entry, token in zip(entries, completion_ids, strict=True)]
        return Score(logprobs, _next_logprobs(choice))

    async def next_logprobs(
        self, model: str, prompt_ids: list[int], *, top_k: int, cache_salt: str | None = None
    ) -> dict[int, float]:
        """The `top_k` tokens that are likeliest after a prompt, and their raw logprobs in nats.

        They are computed as an answer is, from what the prefix cache holds. Requests with a `cache_salt` read only what
        requests with the same salt have left there.
        """
        options = {} if cache_salt is None else {"cache_salt": cache_salt}
        return _next_logprobs(await self._next(prompt_ids, model, top_k, options))

    async def _next(self, prompt_ids: list[int], model: str, top_k: int, options: Mapping[str, Any]) -> Any:
        body = {
            "model": model,
            "prompt": prompt_ids,
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": top_k,
            "return_tokens_as_token_ids": True,
            **options,
        }
        return (await self._request("POST", "/v1/completions", body))["choices"][0]

    async def health(self) -> int:
        """The HTTP status of the engine's own health check.

        Raises:
            aiohttp.ClientError, TimeoutError: The engine cannot be reached, or does not answer in time.
        """
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        async with self._open().get(f"{self.base_url}/health", timeout=timeout) as answer:
            return answer.status

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = tls_for(self.base_url)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S, ssl=tls)
            self._session = aiohttp.ClientSession(headers=self.authorization, connector=connector)
        return self._session

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, limit_s: float = ANSWER_S
    ) -> Any:
        timeout = aiohttp.ClientTimeout(total=limit_s)
        try:
            async with self._open().request(method, f"{self.base_url}{path}", json=body, timeout=timeout) as answer:
                if answer.status < 400:
                    return await answer.json() if "json" in answer.content_type else await answer.text()
                text = await answer.text()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise EngineUnavailableError(
                f"{method} {self.base_url}{path} failed: {reason}; is the engine running?"
            ) from error
        message = f"{method} {path} answered {status}: {_message(text)}"
        if status == 404:
            raise NotFoundError(message)
        refusal = EngineError(message)
        refusal.upstream_status = status
        raise refusal


def _message(text: str) -> str:
    """The message inside an OpenAI-style error, or the text itself, on one line."""
    try:
        body = json.loads(text)
        text = body["error"]["message"] if "error" in body else body["message"]
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:500]


def _top(logprobs: Sequence[float], sampled: float, top_k: int) -> TokenLogprobs:
    top = sorted(logprobs, reverse=True)[:top_k]
    return TokenLogprobs(logprob=sampled, top=top)


def _sample_of(choice: Mapping[str, Any], top_k: int) -> Sample:
    logprobs = choice["logprobs"]["token_logprobs"]
    tops = choice["logprobs"]["top_logprobs"] or []
    tokens = [_top(list(top.values()), sampled, top_k) for top, sampled in zip(tops, logprobs, strict=False) if top_k]
    return Sample(
        prompt_ids=choice["prompt_token_ids"],
        token_ids=choice["token_ids"],
        text=choice["text"],
        logprobs=logprobs,
        tokens=tokens,
        finish_reason=choice["finish_reason"],
    )


def _next_logprobs(choice: Mapping[str, Any]) -> dict[int, float]:
    top = choice["logprobs"]["top_logprobs"][0]
    return {int(token.removeprefix("token_id:")): logprob for token, logprob in top.items()}
