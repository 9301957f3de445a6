"""
Every tuner of PEFT, with a configuration for the tiny Llama of the tests.

`test_tuners.py` trains what is in `SUPPORTED`, checks that the rest is refused or has a reason to be open, and that no
tuner of the installed PEFT is missing here. The page of the docs is made from these tables as well.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import peft
from conftest import build_tokenizer
from peft import PeftConfig


class Tuner(NamedTuple):
    """
    A tuner that works.

    Args:
        peft_type (`str`): PEFT's name of its type. LoRA has many variants of one type.
        config (`str`): Class of its configuration.
        options (`dict`): Options of the configuration, on top of `TARGETS` if it has `target_modules`.
        layout (`str`): Layout that is right with it, after the check.
        merges (`bool`): Whether PEFT can merge it into the tiny Llama.
        note (`str`): What a user has to know.
        learning_rate (`float`): Of the test: high enough for two steps to change the loss.
    """

    peft_type: str
    config: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    layout: str = "packed"
    merges: bool = True
    note: str = ""
    learning_rate: float = 0.1


TARGETS = ["q_proj", "v_proj"]
# Tokens of the pairs of the tests: in every prompt, and in every chain.
IN_PROMPT, IN_CHAIN = (build_tokenizer()(text)["input_ids"] for text in ("\nA:", " answer"))

NEEDS_BIAS = "PEFT merges it into layers with a bias only"

SUPPORTED = {
    "LoRA": Tuner("LORA", "LoraConfig"),
    "LoRA with `bias` and `rank_pattern`": Tuner(
        "LORA",
        "LoraConfig",
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"], "bias": "all", "rank_pattern": {"q_proj": 2}},
    ),
    "LoRA on embeddings": Tuner("LORA", "LoraConfig", {"target_modules": ["embed_tokens"]}),
    "LoRA with `lora_bias`": Tuner("LORA", "LoraConfig", {"lora_bias": True}, merges=False, note=NEEDS_BIAS),
    "LoRA with `modules_to_save`": Tuner("LORA", "LoraConfig", {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "LoRA with `trainable_token_indices`": Tuner("LORA", "LoraConfig", {"trainable_token_indices": IN_CHAIN}),
    "LoRA with `target_parameters`": Tuner(
        "LORA", "LoraConfig", {"target_modules": [], "target_parameters": ["q_proj.weight"]}
    ),
    "LoRA with `layer_replication`": Tuner(
        "LORA", "LoraConfig", {"layer_replication": [[0, 2], [1, 2]]}, merges=False
    ),
    "rsLoRA": Tuner("LORA", "LoraConfig", {"use_rslora": True}),
    "DoRA": Tuner("LORA", "LoraConfig", {"use_dora": True}),
    "PiSSA": Tuner("LORA", "LoraConfig", {"init_lora_weights": "pissa"}),
    "OLoRA": Tuner("LORA", "LoraConfig", {"init_lora_weights": "olora"}),
    "LoRA with Gaussian weights": Tuner("LORA", "LoraConfig", {"init_lora_weights": "gaussian"}),
    "aLoRA": Tuner(
        "LORA",
        "LoraConfig",
        {"alora_invocation_tokens": IN_CHAIN},
        layout="padded",
        merges=False,
        note="two padded rows per pair: it begins at a token of the row. To evaluate while it trains, PEFT asks for "
        "`gradient_checkpointing=False`",
    ),
    "BD-LoRA": Tuner(
        "LORA",
        "LoraConfig",
        {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"], "nblocks": 2}},
    ),
    "KaSA": Tuner("LORA", "LoraConfig", {"kasa_config": {}}, note="without its regularizers, as in `SFTTrainer`"),
    "MonteCLoRA": Tuner(
        "LORA", "LoraConfig", {"monteclora_config": {}}, note="without its regularizer, as in `SFTTrainer`"
    ),
    "VeLoRA": Tuner("LORA", "LoraConfig", {"velora_config": {}}),
    "AdaLoRA": Tuner(
        "ADALORA",
        "AdaLoraConfig",
        {"total_step": 4, "init_r": 4, "target_r": 2, "orth_reg_weight": 0.0},
        note="with `orth_reg_weight=0.0`, and a callback that calls `update_and_allocate`",
    ),
    "Adaption prompt": Tuner(
        "ADAPTION_PROMPT",
        "AdaptionPromptConfig",
        {"target_modules": "self_attn", "adapter_len": 4, "adapter_layers": 2},
        merges=False,
    ),
    "BEFT": Tuner("BEFT", "BeftConfig", merges=False, note=NEEDS_BIAS),
    "Bone": Tuner("BONE", "BoneConfig", note="of older releases of PEFT; later ones have MiSS"),
    "BOFT": Tuner("BOFT", "BOFTConfig", {"boft_block_size": 4}),
    "C3A": Tuner("C3A", "C3AConfig", {"block_size": 8}),
    "DEFT": Tuner("DEFT", "DeftConfig"),
    "DeLoRA": Tuner("DELORA", "DeloraConfig"),
    "FourierFT": Tuner("FOURIERFT", "FourierFTConfig", {"n_frequency": 20}),
    "FRoD": Tuner("FROD", "FrodConfig", {"progressbar": False}),
    "GLoRA": Tuner("GLORA", "GloraConfig"),
    "GraLoRA": Tuner("GRALORA", "GraloraConfig", {"gralora_k": 2}),
    "HiRA": Tuner("HIRA", "HiraConfig"),
    "HRA": Tuner("HRA", "HRAConfig"),
    "IA3": Tuner(
        "IA3", "IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    ),
    "LN tuning": Tuner("LN_TUNING", "LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "LoHa": Tuner("LOHA", "LoHaConfig"),
    "LoKr": Tuner("LOKR", "LoKrConfig"),
    "MiSS": Tuner("MISS", "MissConfig"),
    "OFT": Tuner("OFT", "OFTConfig", {"r": 0, "oft_block_size": 4}),
    "OSF": Tuner("OSF", "OSFConfig"),
    "PEANuT": Tuner("PEANUT", "PeanutConfig"),
    "PSOFT": Tuner("PSOFT", "PsoftConfig"),
    "PVeRA": Tuner("PVERA", "PveraConfig"),
    "RandLoRA": Tuner("RANDLORA", "RandLoraConfig"),
    "RoAd": Tuner("ROAD", "RoadConfig", {"group_size": 8}),
    "SHADOW": Tuner(
        "SHADOW",
        "ShadowConfig",
        {"target_modules": None, "auxiliary_loss_weight": 0.0},
        layout="shared_prefix",
        merges=False,
        note="with `auxiliary_loss_weight=0.0`",
    ),
    "SHiRA": Tuner("SHIRA", "ShiraConfig"),
    "SuperTuning": Tuner("SUPERTUNING", "SupertuningConfig"),
    "TinyLoRA": Tuner("TINYLORA", "TinyLoraConfig"),
    "Trainable tokens": Tuner(
        "TRAINABLE_TOKENS", "TrainableTokensConfig", {"token_indices": IN_CHAIN, "target_modules": ["embed_tokens"]}
    ),
    "Uni-LoRA": Tuner("UNILORA", "UniLoraConfig", {"theta_d_length": 64}, learning_rate=10.0),
    "VB-LoRA": Tuner("VBLORA", "VBLoRAConfig", {"num_vectors": 16, "vector_length": 8}, learning_rate=10.0),
    "VeRA": Tuner("VERA", "VeraConfig"),
    "WaveFT": Tuner("WAVEFT", "WaveFTConfig", {"n_frequency": 20}),
}

# Types that are refused: options of a configuration, and a part of the error.
PROMPT_LEARNING = "does not support prompt learning"
REFUSED = {
    "PROMPT_TUNING": ("Prompt tuning", {"num_virtual_tokens": 4}, PROMPT_LEARNING),
    "MULTITASK_PROMPT_TUNING": ("Multitask prompt tuning", {"num_virtual_tokens": 4}, PROMPT_LEARNING),
    "P_TUNING": ("P-tuning", {"num_virtual_tokens": 4}, PROMPT_LEARNING),
    "PREFIX_TUNING": ("Prefix tuning", {"num_virtual_tokens": 4}, PROMPT_LEARNING),
    "CPT": ("CPT", {"cpt_token_ids": [40, 41]}, PROMPT_LEARNING),
    "CARTRIDGE": ("Cartridge", {"num_virtual_tokens": 4}, PROMPT_LEARNING),
    "LILY": ("Lily", {}, "its router averages over all tokens of a batch"),
    "POLY": ("Poly", {}, "its layers ask for the `task_ids` of a row"),
    "XLORA": ("X-LoRA", {"hidden_size": 32, "adapters": {}}, "it runs the model twice for one forward pass"),
    "ADALORA": ("AdaLoRA with its own loss", {"total_step": 4}, "AdaLoraConfig(orth_reg_weight=0.5)"),
    "SHADOW": ("SHADOW with its own loss", {}, "ShadowConfig(auxiliary_loss_weight=0.05)"),
}

OPEN = {"ADAMSS": ("AdaMSS", "needs scikit-learn, and a call of `update_and_allocate` in the training loop")}


def make_config(config: str | type[PeftConfig], options: dict[str, Any]) -> PeftConfig:
    """Configuration of a tuner; raises `AttributeError` or `TypeError` if the installed PEFT is too old for it."""
    config_class: Callable[..., PeftConfig] = getattr(peft, config) if isinstance(config, str) else config
    parameters = inspect.signature(config_class).parameters
    values: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if "target_modules" in parameters:
        values["target_modules"] = TARGETS
    if "r" in parameters:
        values["r"] = 4
    nested = {
        "use_bdlora": "BdLoraConfig",
        "kasa_config": "KasaConfig",
        "monteclora_config": "MontecloraConfig",
        "velora_config": "VeloraConfig",
    }
    options = {
        name: getattr(peft, nested[name])(**value) if name in nested else value for name, value in options.items()
    }
    return config_class(**{**values, **options})
