"""
Architectures whose log-probabilities are compared with the model's own, and small models of them.

`PACKED`, `SHARED` and `PADDED` say which layout `EDITTrainer` trains on. To add one, put its name in one of them, with
options if `SIZES` are not enough, and run `make docs-compat`.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel


# Options of a small model, under all the names that configs have for them. A config gets those that it has.
SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "pad_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "sliding_window": 8,
    "is_decoder": True,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 8,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    "type_vocab_size": 1,
}

LATENT = {"num_key_value_heads": 4}  # attention over a latent, which has as many keys as queries
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
BY_LAYER = {"vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}

OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), LATENT),
    **dict.fromkeys(("longcat_flash", "minicpm3", "sarvam_mla", "youtu"), LATENT),
    **dict.fromkeys(("bamba", "granitemoehybrid"), MAMBA),
    "falcon_h1": {**MAMBA, "mamba_d_head": 8, "mamba_d_ssm": 32},
    "gemma3n_text": {
        **BY_LAYER,
        "layer_types": ["sliding_attention", "full_attention"],
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0],
        "intermediate_size": [64, 64],
    },
    "gemma4_text": {**BY_LAYER, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    **dict.fromkeys(("lfm2", "lfm2_moe"), {"layer_types": ["conv", "full_attention"]}),
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "xlm": {"causal": True},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8},
    "zaya": {"num_experts_per_tok": 1},
}


def build_architecture(name: str) -> PreTrainedModel:
    """A small model of an architecture, with large enough random weights for a wrong position to matter."""
    config_class = CONFIG_MAPPING[name]
    known = {*vars(config_class()), *config_class.attribute_map}
    options = {key: value for key, value in SIZES.items() if key in known}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_class(**options | OPTIONS.get(name, {})), dtype=torch.float32)


# Names of `CONFIG_MAPPING`. One row for all pairs:
PACKED = """
afmoe apertus apertus1p5_text arcee aria_text beam bert bert-generation biogpt bitnet codegen cohere cohere2
cohere2_moe ctrl cwm deepseek_v2 deepseek_v3 diffllama dory electra ernie ernie4_5 ernie4_5_moe exaone exaone4
exaone_moe flex_olmo gemma gemma3_text gemma3n_text gemma4_text gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite
gpt-sw3 gpt2 gpt_bigcode gpt_neox gptj granite granitemoe granitemoeshared helium hrm_text hunyuan_v1_dense
hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna llama longcat_flash mellum minicpm3
minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral moshi nanochat olmo olmo2 olmo3 olmoe opt persimmon
phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe roc_bert sarvam_mla sarvam_moe seed_oss smollm3 solar_open starcoder2 youtu
""".split()

# One row per pair, with a mask: eager attention, or one that passes on less than packed rows need.
SHARED = """
big_bird falcon flint gemma2 gpt_neox_japanese gpt_oss granite_swa granitemoe_swa megatron-bert mimo_v2_flash nemotron
phimoe rembert stablelm vaultgemma xglm
""".split()

# Two padded rows per pair, by what the warning says.
PADDED = {
    "it counts positions from the number of its padding token": """
        camembert data2vec-text roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod
    """.split(),
    "its forward takes no `position_ids`": """
        bart bigbird_pegasus blenderbot blenderbot-small bloom falcon_mamba mamba mamba2 marian mbart mpt mvp pegasus
        plbart roformer rwkv trocr whisper xlstm
    """.split(),
    "it has recurrent layers": """
        bailing_hybrid bamba deepseek_v4 falcon_h1 granitemoehybrid jamba lara_mini olmo_hybrid
        qwen3_5_text qwen3_next recurrent_gemma zamba2 zaya
    """.split(),
    "it has convolution layers": "inkling_text lfm2 lfm2_moe lfm3".split(),
    "it has layers of type": "axk2 deepseek_v32 glm_moe_dsa hy_v4 llama4_text minimax".split(),
    "an attention window that no mask makes": "doge gpt_neo modernbert-decoder".split(),
    # Found by the check on a pair of the first batch:
    "it fails on one with": ["openai-gpt", "xlm"],
}
