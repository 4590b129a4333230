"""What a request must not hold: fields about the server, and fields of a type at which the engine stumbles.

vLLM 0.32 knows the first three: they name other machines to fetch caches from, and tensors to unpickle. It ignores the
names of LoRA fields, but other versions do not, and whoever sends them expects that they load an adapter.
"""

from typing import Any

from reheatd.errors import BadInputError

SERVER_FIELDS = frozenset(
    (
        "kv_transfer_params", "ec_transfer_params", "prompt_embeds",
        "lora_request", "lora_name", "lora_path", "lora_int_id", "lora_adapter", "load_inplace",
    )
)  # fmt: skip
OWN_PREFIX = "reheatd_"
"""Beginning of the `vllm_xargs` that only the gateway sets."""
TYPES: dict[str, tuple[type, ...]] = {"messages": (list,), "structured_outputs": (dict, type(None))}
"""Types that vLLM takes for granted before it checks a field. It answers with a 500 where they are others."""


def check_fields(body: dict[str, Any]) -> None:
    """Checks a request, and drops the `vllm_xargs` that only the gateway sets.

    Raises:
        BadInputError: It has a field that is about the server, or one of a wrong type; `param` names it.
    """
    xargs = body.get("vllm_xargs")
    for place, fields in (("", body), ("vllm_xargs.", xargs)):
        for name in SERVER_FIELDS.intersection(fields if isinstance(fields, dict) else ()):
            raise BadInputError(
                f"{place}{name} is about the server, and clients cannot set it; leave it out", param=f"{place}{name}"
            )
    for name, types in TYPES.items():
        if name in body and not isinstance(body[name], types):
            wanted = "a list" if list in types else "an object"
            raise BadInputError(f"{name} must be {wanted}, got {type(body[name]).__name__}", param=name)
    if isinstance(xargs, dict):
        body["vllm_xargs"] = {name: value for name, value in xargs.items() if not name.startswith(OWN_PREFIX)}
