"""Policies of the shapes that people have: which are refused at the start, and what their chats become."""

import re
from pathlib import Path
from typing import Any

import pytest

from reheatd.config_tables import PolicySection
from reheatd.engine.chat_template import check_chat_template, raw_template, template_arguments
from reheatd.engine.policy_model import resolve_policy
from reheatd.engine.supported import unsupported
from reheatd.errors import BadInputError
from tests.tiny_policy import tiny_tokenizer
from tests.tiny_shapes import SHAPES, THINKING_TEMPLATE, build_shape


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128}, r"experts \(num_experts = 128\)"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "num_local_experts = 8"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 256}, "n_routed_experts = 256"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}, "vision_config"),
        ({"architectures": ["Gemma2ForCausalLM"], "final_logit_softcapping": 30.0}, "final_logit_softcapping = 30"),
        ({"architectures": ["CohereForCausalLM"], "logit_scale": 0.0625}, "logit_scale = 0.0625"),
        ({"architectures": ["GraniteForCausalLM"], "logits_scaling": 8.0}, "logits_scaling = 8"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "encoder"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel without adapters"),
    ],
)
def test_what_is_not_supported_is_named(config: dict[str, Any], named: str) -> None:
    assert re.search(named, unsupported(config) or "")


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("tied", [False, True])
def test_shapes_are_served_or_refused_by_name(shape: str, tied: bool, tmp_path: Path) -> None:
    folder = build_shape(tmp_path / "policy", shape, tied=tied)
    if shape == "gpt2":
        with pytest.raises(BadInputError, match=r"policy\.model = .* is not supported: vLLM serves GPT2LMHeadModel"):
            resolve_policy(str(folder))
    else:
        assert resolve_policy(str(folder)) == folder


def test_a_base_model_without_chat_template_says_what_to_set(tmp_path: Path) -> None:
    folder = build_shape(tmp_path / "policy", "llama", chat_template=None)
    with pytest.raises(BadInputError, match=r'has no chat template.*policy\.chat_template = "raw"'):
        check_chat_template(PolicySection(model=str(folder)), folder)
    check_chat_template(PolicySection(model=str(folder), chat_template="raw"), folder)
    with pytest.raises(BadInputError, match="neither a file"):
        check_chat_template(PolicySection(chat_template="gone.jinja"), folder)
    (template := tmp_path / "own.jinja").write_text("{{ messages[0]['content'] }}")
    check_chat_template(PolicySection(chat_template=str(template)), folder)


def test_a_tokenizer_whose_configuration_is_damaged_is_not_taken_for_one_without_template(tmp_path: Path) -> None:
    folder = build_shape(tmp_path / "policy", "llama", chat_template=None)
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(BadInputError, match=r"policy\.model: .*tokenizer_config\.json cannot be read"):
        check_chat_template(PolicySection(model=str(folder)), folder)


def test_a_policy_with_a_template_needs_no_setting(tmp_path: Path) -> None:
    folder = build_shape(tmp_path / "policy", "qwen3")
    check_chat_template(PolicySection(), folder)
    assert template_arguments(PolicySection()) == []


def test_raw_prompts_begin_as_the_tokenizer_begins_a_text() -> None:
    tokenizer, _ = tiny_tokenizer(raw_template("<|im_start|>"))
    messages = [{"role": "user", "content": "2 + 3 ="}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "<|im_start|>2 + 3 ="


def test_a_thinking_model_can_be_told_not_to() -> None:
    tokenizer, _ = tiny_tokenizer(THINKING_TEMPLATE)
    messages = [{"role": "user", "content": "?"}]
    given = PolicySection(chat_template_kwargs={"enable_thinking": False})
    option, value = template_arguments(given)
    assert (option, value) == ("--default-chat-template-kwargs", '{"enable_thinking": false}')
    quiet = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    loud = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert quiet.startswith(loud) and quiet.endswith("</think>\n\n")
