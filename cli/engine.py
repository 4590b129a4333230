"""`reheatd engine`: runs the engine alone, in the foreground, for a daemon that runs elsewhere (`engine.url`)."""

import os

from cli.options import ConfigOption, JsonOption
from reheatd.config import load_settings


def engine(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Run vLLM with adapter slots as the daemon would, for a daemon that runs elsewhere.

    The daemon names this engine in `engine.url`, and must see the same data folder and the same `engine.api_key_file`.
    Without that file or VLLM_API_KEY, the engine listens on loopback only and has no entropy tap.
    """
    settings = load_settings(config)
    from reheatd.engine.chat_template import check_chat_template
    from reheatd.engine.credentials import standalone_credentials
    from reheatd.engine.launch import detect_device, engine_command, taps
    from reheatd.engine.policy_model import resolve_policy
    from reheatd.engine.sequence_length import with_length
    from reheatd.extras import require_engine_extra
    from reheatd.plan.gpu_plan import plan_gpus
    from reheatd.process.ports import reserve_port

    device = detect_device() if settings.engine.device == "auto" else settings.engine.device
    require_engine_extra(device)
    port = settings.engine.port or reserve_port(settings.engine.host)
    # Port 0 means that a daemon picks a port for an engine that it starts itself.
    tap = settings.entropy.tap_address if taps(settings, device) else None
    model = resolve_policy(settings.policy.model)
    check_chat_template(settings.policy, model)
    credentials = standalone_credentials(settings.engine)
    gpus = plan_gpus(settings, model) if device == "cuda" else None
    command = engine_command(
        with_length(settings, model, device, gpus),
        model,
        port,
        device,
        credentials=credentials,
        tap_address=tap if tap and credentials and not tap.endswith(":0") else None,
        gpus=None if gpus is None else gpus.engines[0],
    )
    if not json_output:
        print(f"reheatd: engine for {settings.policy.model} on http://{settings.engine.host}:{port}", flush=True)
    os.execve(command.argv[0], command.argv, {**os.environ, **command.env})
