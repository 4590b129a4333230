"""The training prompts of TS-OPSD."""

from collections.abc import Sequence
from pathlib import Path

from reheatd.json_lines import PROMPT, Messages, prompt_messages, read_json_lines

PROMPTS = Path(__file__).parent / "data" / "prompts.jsonl"

Prompts = Sequence[Messages]


def load_prompts() -> list[Messages]:
    """The bundled training prompts for TS-OPSD."""
    lines = read_json_lines(PROMPTS, expected=PROMPT, param=None)
    return [prompt_messages(place, values) for place, values in lines]
