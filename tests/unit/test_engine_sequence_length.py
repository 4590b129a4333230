"""`policy.max_model_len = "auto"`: the length that the policy's files and the KV cache allow."""

import json
from pathlib import Path
from typing import Any

import pytest

from reheatd.config import Settings
from reheatd.engine.sequence_length import with_length
from reheatd.errors import BadInputError
from reheatd.plan.gpu_plan import EngineGpus, GpuPlan

KV_BYTES = 2 * 2 * 4 * 8 * 4
"""Of one token of this policy, in float32."""
SMALL_CACHE = {"kv_cache_bytes": 1 << 20}
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
}


def length_of(folder: Path, config: dict[str, Any] | None = None, **tables: Any) -> int:
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    engine = {"dtype": "float32", **tables.pop("engine", {})}
    return with_length(Settings.model_validate({**tables, "engine": engine}), folder, "cpu", None).policy.length


def test_an_engine_accepts_what_the_policy_was_made_for(tmp_path: Path) -> None:
    assert length_of(tmp_path) == 8192


@pytest.mark.parametrize(("limit", "length"), [(4096, 4096), (1e30, 8192), (None, 8192)])
def test_the_tokenizer_may_be_made_for_less(limit: float | None, length: int, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert length_of(tmp_path) == length


def test_positions_that_a_policy_was_stretched_to_do_not_count(tmp_path: Path) -> None:
    stretched = {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 2048}
    assert length_of(tmp_path, stretched) == 2048


def test_a_sequence_fits_into_the_kv_cache(tmp_path: Path) -> None:
    tokens = (1 << 20) // KV_BYTES
    assert tokens % 16 == 0
    assert length_of(tmp_path, engine={"kv_cache_bytes": 1 << 20}) == tokens
    assert length_of(tmp_path, engine={"kv_cache_bytes": (1 << 20) + 15 * KV_BYTES}) == tokens
    elsewhere = {"kv_cache_bytes": 1 << 20, "url": "http://elsewhere:8100"}
    assert length_of(tmp_path, engine=elsewhere) == 8192, "its cache is not known"


def test_a_sequence_fits_into_the_kv_cache_of_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for known, length in ((1000, 992), (9000, 8192), (None, 8192)):
        gpus = GpuPlan((EngineGpus(("0",), 0.9),), (), kv_tokens=known)
        assert with_length(Settings(), tmp_path, "cuda", gpus).policy.length == length


def test_a_number_is_kept(tmp_path: Path) -> None:
    assert length_of(tmp_path, policy={"max_model_len": 512}) == 512


@pytest.mark.parametrize(
    ("config", "tables", "param", "says"),
    [
        ({"max_position_embeddings": None}, {}, "policy.max_model_len", "no max_position_embeddings.*set it to"),
        (
            {"num_hidden_layers": 200},
            {"engine": {"kv_cache_bytes": 1 << 20}},
            "engine.kv_cache_bytes",
            "room for 16 tokens",
        ),
        ({}, {"rl": {"max_tokens": 8192}}, None, r"rl\.max_tokens = 8192 leaves no room .*max_model_len = 8192"),
    ],
)
def test_what_leaves_no_length_is_refused(
    config: dict[str, Any], tables: dict[str, Any], param: str | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=says) as refused:
        length_of(tmp_path, config, **tables)
    assert refused.value.param == param


def test_no_number_is_made_up_before_the_policy_is_known() -> None:
    with pytest.raises(RuntimeError, match="not known before"):
        _ = Settings().policy.length
