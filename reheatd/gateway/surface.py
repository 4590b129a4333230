"""The engine's routes that clients may ask. All others of the engine cannot be reached through the gateway.

What is left out changes the engine (LoRA adapters, sleep, pause, profiling, caches, weights), tells how it was started
(`/server_info`, `/tokenizer_info`), works for another server (`/inference/v1`, `render` and `derender`), or is about
speech (`/v1/audio`, `/v1/realtime`): a policy with an audio part is refused at the start.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientRoute:
    """A route whose requests are passed on."""

    path: str
    decodes: bool = False
    """Whether the policy writes the answer, so that the entropy tap counts its tokens. The engine then takes
    `vllm_xargs`."""
    measurable: bool = False
    """Whether its answers can carry logprobs that the client did not ask for."""
    streams: bool = False
    metered: bool = True
    """Whether its tokens count towards what a key may use per minute."""
    usage_on_request: bool = False
    """Whether a stream says how many tokens it had only if `stream_options` asks for it."""
    token_mark: bytes = b"\n\n"
    """What a stream has once for every token."""
    names_events: bool = False
    """Whether the events of a stream have names."""


CHAT = ClientRoute("/v1/chat/completions", decodes=True, measurable=True, streams=True, usage_on_request=True)
COMPLETIONS = ClientRoute("/v1/completions", decodes=True, measurable=True, streams=True, usage_on_request=True)
CHAT_BATCH = ClientRoute("/v1/chat/completions/batch", decodes=True)
RESPONSES = ClientRoute("/v1/responses", decodes=True, streams=True, token_mark=b".delta\ndata: ", names_events=True)
MESSAGES = ClientRoute(
    "/v1/messages", decodes=True, streams=True, token_mark=b"content_block_delta\ndata: ", names_events=True
)
COUNT_TOKENS = ClientRoute("/v1/messages/count_tokens", metered=False)
TOKENIZE = ClientRoute("/tokenize", metered=False)
DETOKENIZE = ClientRoute("/detokenize", metered=False)
DECISIONS = ClientRoute("/v1/systemone")
GENERATIVE_SCORING = ClientRoute("/generative_scoring")

POOLING: tuple[ClientRoute, ...] = (
    ClientRoute("/v1/embeddings"),
    ClientRoute("/v2/embed"),
    ClientRoute("/v1/score"),
    ClientRoute("/score"),
    ClientRoute("/v1/rerank"),
    ClientRoute("/v2/rerank"),
    ClientRoute("/rerank"),
    ClientRoute("/classify"),
    ClientRoute("/pooling"),
)
"""Routes that only engines of pooling models have."""

SURFACE: tuple[ClientRoute, ...] = (
    CHAT, COMPLETIONS, CHAT_BATCH, RESPONSES, MESSAGES, COUNT_TOKENS, TOKENIZE, DETOKENIZE, DECISIONS,
    GENERATIVE_SCORING, *POOLING,
)  # fmt: skip
PROXIED_PATHS = frozenset(route.path for route in SURFACE)
