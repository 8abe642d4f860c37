"""Which adapters that PEFT writes are plain LoRA, by their `adapter_config.json`. Torch-free."""

from collections.abc import Mapping
from typing import Any

_PLAIN_STARTS = ("gaussian", "orthogonal", "eva")
_OTHER_KINDS = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "kasa_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


def check_settings(settings: Mapping[str, Any]) -> None:
    """ValueError for what would compute something else than plain LoRA, or change the base's weights."""
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"only LoRA adapters are served, not {settings.get('peft_type')!r:.40}")
    for key in _OTHER_KINDS:
        if settings.get(key):
            raise ValueError(f"{key}: only plain LoRA adapters are served")
    if settings.get("bias", "none") != "none":
        raise ValueError(f"bias {settings['bias']!r:.40}: trained biases are not served")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _PLAIN_STARTS:
        raise ValueError(
            f"init_lora_weights {start!r:.40}: it changed the base; convert the adapter to plain LoRA"
        )
