"""The chat template: what turns the messages of a chat into a prompt."""

import json
from pathlib import Path

from reheatd.config_tables import PolicySection
from reheatd.engine.model_files import read_object
from reheatd.errors import BadInputError

RAW = "raw"
"""Value of `policy.chat_template` for prompts that are the contents of the messages and nothing else."""
RAW_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PARAM = "policy.chat_template"


def check_chat_template(policy: PolicySection, folder: Path) -> None:
    """Finds out at the start whether chats can become prompts at all.

    Args:
        folder: Folder of the policy's files.

    Raises:
        BadInputError: The policy has no chat template, and the settings name none, or one that is not there; or the
            policy's files cannot be read.
    """
    if policy.chat_template is None:
        if not has_chat_template(folder):
            raise BadInputError(
                f'{policy.model} has no chat template, as base models do; set {PARAM} = "{RAW}" to give it prompts as '
                "they are, or name a Jinja file that its training used",
                param=PARAM,
            )
    elif policy.chat_template != RAW and not Path(policy.chat_template).is_file():
        raise BadInputError(f'{PARAM} = {policy.chat_template!r} is neither a file nor "{RAW}"', param=PARAM)


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a model's folder comes with a chat template.

    Raises:
        BadInputError: Its `tokenizer_config.json` cannot be read.
    """
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(read_object(file, "policy.model").get("chat_template"))


def template_arguments(policy: PolicySection) -> list[str]:
    """The engine's arguments for the settings; `reheatd.engine.server` knows what `raw` means."""
    arguments = [] if policy.chat_template is None else ["--chat-template", policy.chat_template]
    if policy.chat_template_kwargs:
        arguments += ["--default-chat-template-kwargs", json.dumps(policy.chat_template_kwargs)]
    return arguments


def raw_template(before: str) -> str:
    """The template for prompts as they are.

    Args:
        before: What the tokenizer puts before every text, such as the token that begins one. Chat templates have to say
            it themselves.
    """
    return before + RAW_TEMPLATE
