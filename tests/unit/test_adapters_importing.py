"""Adapters as the trainers write them become the form that is served, with the same update; the rest is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from reheatd.adapters.importing import Origin, find_adapter, normalise_adapter
from reheatd.adapters.tensors import read_tensors, write_tensors
from reheatd.adapters.validate import base_digest, validate_adapter
from reheatd.errors import AdapterInvalidError

LAYER = "model.layers.{}.self_attn.{}"
Q0, Q1, V0, V1 = (LAYER.format(layer, name) for name in ("q_proj", "v_proj") for layer in (0, 1))
ALL_OF_PEFT: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "bias": "none",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_to_transform": None,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "rank_pattern": {},
    "target_modules": ["v_proj", "q_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_rslora": False,
}
"""The fields of a configuration that PEFT, TRL and Unsloth write."""
Updates = dict[str, np.ndarray]


@pytest.fixture
def shapes(tiny_policy: Path) -> dict[str, list[int]]:
    with safe_open(tiny_policy / "model.safetensors", framework="numpy") as weights:
        return {module: weights.get_slice(f"{module}.weight").get_shape() for module in (Q0, Q1, V0, V1)}


class Written:
    """An adapter as a trainer wrote it, and the updates that it makes."""

    def __init__(
        self,
        folder: Path,
        shapes: dict[str, list[int]],
        *,
        name: str = "base_model.model.{module}.lora_{side}.weight",
        ranks: dict[str, int] | None = None,
        scales: Callable[[str, int], float] = lambda module, rank: 16 / rank,
        bfloat16: bool = False,
        **config: Any,
    ) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.updates = folder, {}
        tensors: dict[str, np.ndarray] = {}
        for module, (rows, columns) in shapes.items():
            rank = (ranks or {}).get(module, 4)
            pair: Updates = {"A": rng.normal(0, 0.1, (rank, columns)), "B": rng.normal(0, 0.1, (rows, rank))}
            for side, values in pair.items():
                bits = values.astype(np.float32).view(np.uint32)
                rounded = (bits & np.uint32(0xFFFF0000 if bfloat16 else 0xFFFFFFFF)).view(np.float32)
                pair[side] = tensors[name.format(module=module, side=side)] = rounded
            self.updates[module] = scales(module, rank) * pair["B"].astype(np.float64) @ pair["A"]
        folder.mkdir()
        write_tensors(folder / "adapter_model.safetensors", tensors)
        base = {"r": 4, "lora_alpha": 16, "base_model_name_or_path": "org/Tiny-Policy"}
        (folder / "adapter_config.json").write_text(json.dumps({**ALL_OF_PEFT, **base, **config}))


def imported(written: Path, model: Path, *, any_base: bool = False, max_rank: int = 16) -> Origin:
    target = written.parent / "imported"
    origin = normalise_adapter(
        written,
        target,
        model,
        base_name="somebody/tiny-policy",
        policy_digest=base_digest(model),
        max_rank=max_rank,
        any_base=any_base,
    )
    validate_adapter(target, model, max_rank=max_rank)
    return origin


def updates_of(folder: Path) -> Updates:
    """The update that PEFT makes of an adapter: alpha / r times B A of each module."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert not config.get("use_rslora") and not config.get("rank_pattern") and not config.get("alpha_pattern")
    tensors = dict(read_tensors(folder / "adapter_model.safetensors"))
    updates: Updates = {}
    for name, values in tensors.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_A\.weight", name)
        if match is not None:
            b = tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
            updates[match[1]] = config["lora_alpha"] / config["r"] * b @ values
    return updates


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "adapter_model.safetensors", framework="numpy") as tensors:
        return {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118 (not a dictionary)


def same_update(written: Written) -> None:
    found = updates_of(written.folder.parent / "imported")
    assert found.keys() >= written.updates.keys()
    for module, update in found.items():
        np.testing.assert_allclose(update, written.updates.get(module, 0 * update), rtol=1e-6, atol=2e-8)


VERL = {"base_model_name_or_path": None, "target_modules": ["q_proj", "v_proj"]}
PRIME_RL = {
    key: None for key in ALL_OF_PEFT if key not in ("peft_type", "task_type", "bias", "lora_dropout", "target_modules")
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("base_model.model.{module}.lora_{side}.weight", {}),  # PEFT and TRL
        ("base_model.model.{module}.lora_{side}.default.weight", {}),
        ("{module}.lora_{side}.weight", VERL),
        ("{module}.lora_{side}.default.weight", VERL),
        ("{module}.lora_{side}", PRIME_RL),
        ("base_model.model.{module}.lora_{side}.0", PRIME_RL),
        ("_orig_mod.base_model.model.{module}.lora_{side}.weight", {}),
        ("module._fsdp_wrapped_module.base_model.model.{module}.lora_{side}.policy.weight", {}),
        (
            "base_model.model.{module}.lora_{side}.weight",  # Unsloth
            {
                "base_model_name_or_path": "unsloth/tiny-policy-unsloth-bnb-4bit",
                "target_modules": r"(?:.*?(?:self_attn|attn).*?(?:q_proj|v_proj).*?)",
                "revision": "unsloth",
            },
        ),
        ("base_model.model.{module}.lora_{side}.weight", {"target_modules": "all-linear"}),
    ],
)
def test_every_trainer_s_names(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]], name: str, config: dict[str, Any]
) -> None:
    written = Written(tmp_path / "adapter", shapes, name=name, **config)
    assert imported(written.folder, tiny_policy).modules == 4
    same_update(written)


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, "BF16"), (False, "F32")])
def test_a_plain_adapter_keeps_its_values_and_format(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]], bfloat16: bool, dtype: str
) -> None:
    written = Written(tmp_path / "adapter", shapes, bfloat16=bfloat16)
    imported(written.folder, tiny_policy)
    before = dict(read_tensors(written.folder / "adapter_model.safetensors"))
    after = dict(read_tensors(tmp_path / "imported" / "adapter_model.safetensors"))
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    assert dtypes(tmp_path / "imported") == {dtype}


def test_half_precision_is_kept_exactly(tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    written = Written(tmp_path / "adapter", shapes)
    file = written.folder / "adapter_model.safetensors"
    halves = {name: values.to(torch.float16) for name, values in load_file(file).items()}
    save_file(halves, file)
    imported(written.folder, tiny_policy)
    after = load_file(tmp_path / "imported" / "adapter_model.safetensors")
    assert all((after[name] == values.float()).all() for name, values in halves.items())


def test_rank_stabilised_scale(tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]]) -> None:
    written = Written(tmp_path / "adapter", shapes, use_rslora=True, r=3, scales=lambda _, rank: 16 / rank**0.5,
                      ranks=dict.fromkeys(shapes, 3))  # fmt: skip
    imported(written.folder, tiny_policy)
    same_update(written)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_patterns_become_one_rank_and_one_scale(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]], rslora: bool, bfloat16: bool
) -> None:
    ranks = {Q0: 2, Q1: 8, V0: 4, V1: 4}
    alphas = {Q0: 6, Q1: 6, V0: 16, V1: 5}
    written = Written(
        tmp_path / "adapter",
        shapes,
        ranks=ranks,
        scales=lambda module, rank: alphas[module] / (rank**0.5 if rslora else rank),
        bfloat16=bfloat16,
        use_rslora=rslora,
        rank_pattern={"layers.0.self_attn.q_proj": 2, r".*\.1\.self_attn\.q_proj": 8},
        alpha_pattern={"q_proj": 6, r"layers\.1\.\w+\.v_proj": 5},
    )
    assert imported(written.folder, tiny_policy).rank == 8
    same_update(written)


def test_factors_that_are_powers_of_two_keep_bfloat16(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]]
) -> None:
    written = Written(
        tmp_path / "adapter",
        shapes,
        ranks={Q0: 2},
        bfloat16=True,
        rank_pattern={"layers.0.self_attn.q_proj": 2},
    )
    imported(written.folder, tiny_policy)
    same_update(written)
    assert dtypes(tmp_path / "imported") == {"BF16"}


def test_layers_and_modules_that_were_left_out_get_no_update(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]]
) -> None:
    written = Written(tmp_path / "adapter", {Q1: shapes[Q1], V0: shapes[V0]}, layers_to_transform=[0, 1])
    assert imported(written.folder, tiny_policy).modules == 2
    same_update(written)
    assert updates_of(tmp_path / "imported").keys() == {Q0, Q1, V0, V1}


def test_peft_computes_the_same_with_both(tmp_path: Path, tiny_policy: Path) -> None:
    """Written by PEFT itself with all that can vary, and read by PEFT again after the import."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=r".*\.(q_proj|down_proj)",
        rank_pattern={"down_proj": 3},
        alpha_pattern={r"layers\.0\.mlp\.down_proj": 5},
        use_rslora=True,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    trained = get_peft_model(model, config)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        wanted = trained(input_ids=ids).logits
    trained.save_pretrained(str(tmp_path / "adapter"))
    imported(tmp_path / "adapter", tiny_policy)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    with torch.no_grad():
        bare = model(input_ids=ids).logits
        again = PeftModel.from_pretrained(model, tmp_path / "imported")(input_ids=ids).logits
    torch.testing.assert_close(again, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bare, wanted, atol=1e-2)


def test_the_base_is_known_by_digest_or_by_name(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]]
) -> None:
    for number, base in enumerate(
        [
            str(tiny_policy),
            "TINY-policy",
            "/other/tiny-policy/",
            "/hub/models--org--Tiny-Policy/snapshots/4d1",
            None,
        ]
    ):
        written = Written(tmp_path / f"adapter-{number}", shapes, base_model_name_or_path=base)
        assert imported(written.folder, tiny_policy).base_model == base
    written = Written(tmp_path / "other", shapes, base_model_name_or_path="org/huge-policy")
    refused(written.folder, tiny_policy, r"trained on org/huge-policy, but .* somebody/tiny-policy; .*--any-base")
    imported(written.folder, tiny_policy, any_base=True)
    # A folder of this name is here, so its content counts and not its name.
    model = tmp_path / "tiny-policy"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"others")
    written = Written(tmp_path / "another", shapes, base_model_name_or_path=str(model))
    refused(written.folder, tiny_policy, "trained on .*tiny-policy, but")


def refused(adapter: Path, model: Path, says: str, **options: Any) -> None:
    """The adapter is refused in one line, and nothing new appears beside it."""
    before = sorted(adapter.parent.iterdir())
    with pytest.raises(AdapterInvalidError, match=says) as caught:
        imported(adapter, model, **options)
    assert "\n" not in caught.value.message
    assert sorted(adapter.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "IA3"}, "serves only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save = .* whole modules"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "biases were trained"),
        ({"trainable_token_indices": [1]}, "embeddings were trained"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the weights of the base"),
        ({"layer_replication": [[0, 1]]}, "replicated"),
        ({"r": 8}, "has rank 4, but adapter_config.json says 8"),
        ({"r": [4]}, "has rank 4"),
        ({"lora_alpha": 0}, "verl's model merger writes 0"),
        ({"lora_alpha": "16"}, "no scale"),
        ({"lora_alpha": 1e300}, "no scale"),
        ({"alpha_pattern": {"(": 3}}, "cannot be used as a pattern"),
        ({"alpha_pattern": {r"(\w+\.?)*x": 3}}, "too complex"),
        ({"alpha_pattern": {".*.*.*.*.*x": 3}}, "too complex"),
        ({"alpha_pattern": ["q_proj"]}, "no table"),
        ({"base_model_name_or_path": 7}, "no name"),
    ],
)
def test_configurations_that_cannot_be_served(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]], config: dict[str, Any], says: str
) -> None:
    refused(Written(tmp_path / "adapter", shapes, **config).folder, tiny_policy, says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("base_model.model.lm_head.lora_A.weight", "lm_head; head and embeddings must stay frozen"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "LoRA on embeddings"),
        ("base_model.model.model.embed_tokens.lora_A.weight", "head and embeddings must stay frozen"),
        ("base_model.model.lm_head.weight", "whole modules were trained"),
        (f"base_model.model.{Q0}.lora_B.bias", "is a bias"),
        (f"base_model.model.{Q0}.lora_magnitude_vector.weight", "DoRA"),
        (f"base_model.model.{Q0}.lora_A.other.weight", "comes twice"),
        (f"base_model.model.{LAYER.format(7, 'q_proj')}.lora_A.weight", "no module of the policy"),
        (f"base_model.model.{LAYER.format(0, 'k_proj')}.lora_A.weight", "lacks its B"),
    ],
)
def test_tensors_that_cannot_be_served(
    tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]], name: str, says: str
) -> None:
    written = Written(tmp_path / "adapter", shapes)
    file = written.folder / "adapter_model.safetensors"
    tensors: Any = {**dict(read_tensors(file)), name: np.ones((4, 64), np.float32)}
    file.unlink()
    write_tensors(file, tensors)
    refused(written.folder, tiny_policy, says)


def test_files_that_cannot_be_served(tmp_path: Path, tiny_policy: Path, shapes: dict[str, list[int]]) -> None:
    refused(Written(tmp_path / "large", shapes).folder, tiny_policy, "rank 4 is not between 1 and 2", max_rank=2)
    other = {module: [rows, columns + 8] for module, (rows, columns) in shapes.items()}
    refused(Written(tmp_path / "other", other).folder, tiny_policy, "another base model")
    folder = Written(tmp_path / "adapter", shapes).folder
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    refused(folder, tiny_policy, "truncated")
    file.unlink()
    write_tensors(file, {})
    refused(folder, tiny_policy, "no tensors")
    file.rename(folder / "adapter_model.bin")
    refused(folder, tiny_policy, "adapter_model.bin is pickled")
    (folder / "adapter_config.json").write_text("[" * 100_000)
    refused(folder, tiny_policy, "not valid JSON")


def test_the_adapter_is_found_in_a_checkpoint(tmp_path: Path) -> None:
    for folder in ("actor/lora_adapter", "actor/huggingface"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(AdapterInvalidError, match="found none"):
        find_adapter(tmp_path)
    (tmp_path / "actor/lora_adapter/adapter_config.json").write_text("{}")
    assert find_adapter(tmp_path) == tmp_path / "actor/lora_adapter"
    (tmp_path / "actor/huggingface/adapter_config.json").write_text("{}")
    with pytest.raises(AdapterInvalidError, match="found actor/huggingface, actor/lora_adapter"):
        find_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert find_adapter(tmp_path) == tmp_path
