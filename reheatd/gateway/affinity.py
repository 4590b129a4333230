"""Finds the requests that can share a prefix cache: those for one model whose prompts begin alike."""

from typing import Any

PREFIX_CHARACTERS = 1024
PREFIX_TOKENS = 256


def prompt_prefix(body: dict[str, Any]) -> str | None:
    """The beginning of a request's prompt; None if the request has no prompt.

    For a chat, that is everything up to the end of the user's first message, which is the same in all turns of a
    conversation and in all samples of a prompt.
    """
    said = body.get("messages", body.get("input"))
    if isinstance(said, list) and said and isinstance(said[0], dict):
        beginning = _of_chat(said)
    else:
        beginning = _of_text(body.get("prompt", body.get("input")))
    return f"{body.get('model')}\0{beginning}" if beginning else None


def _of_chat(messages: list[Any]) -> str:
    beginning = ""
    for message in messages:
        if not isinstance(message, dict):
            break
        beginning += f"{message.get('role')}\0{message.get('content')}\0"
        if message.get("role") == "user" or len(beginning) > PREFIX_CHARACTERS:
            break
    return beginning[:PREFIX_CHARACTERS]


def _of_text(prompt: Any) -> str:
    if isinstance(prompt, list):
        several = bool(prompt) and isinstance(prompt[0], str | list)
        return _of_text(prompt[0]) if several else str(prompt[:PREFIX_TOKENS])
    return prompt[:PREFIX_CHARACTERS] if isinstance(prompt, str) else ""
