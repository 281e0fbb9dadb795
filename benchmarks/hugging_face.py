"""The peer: Hugging Face's ViTMAEForPreTraining at the papers' shapes, and its weights copied into ours."""

from __future__ import annotations

from typing import Any

import torch

from pmae.config import ModelConfig


def build_peer(config: ModelConfig, mask_ratio: float, attention: str = "eager") -> Any:
    """A ViTMAE of the shapes of ``config`` (resolved); 0 as ``mask_ratio`` masks no patch."""
    import transformers

    return transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=config.width, num_hidden_layers=config.depth, num_attention_heads=config.heads,
            intermediate_size=int(config.width * config.mlp_ratio), image_size=config.image_size,
            patch_size=config.patch_size, num_channels=config.channels, decoder_hidden_size=config.decoder_width,
            decoder_num_hidden_layers=config.decoder_depth, decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=int(config.decoder_width * config.mlp_ratio), mask_ratio=mask_ratio,
            layer_norm_eps=1e-6, attn_implementation=attention,
        )
    )  # fmt: skip


def copy_weights(model: torch.nn.Module, peer: torch.nn.Module) -> None:
    """Weights of a ViTMAEForPreTraining (transformers 5) into ours; qkv are three matrices there and one here."""
    block = {
        "attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    names = {
        "vit.embeddings.cls_token": "encoder.cls_token", "vit.embeddings.position_embeddings": "encoder.pos_embed",
        "vit.embeddings.patch_embeddings.projection": "encoder.patch_embed.proj", "vit.layernorm": "encoder.norm",
        "vit.layers": "encoder.blocks", "decoder.decoder_layers": "decoder_blocks", "decoder.": "",
    }  # fmt: skip
    theirs = peer.state_dict()
    own = {}
    for key, value in theirs.items():
        name = next(new + key[len(old) :] for old, new in names.items() if key.startswith(old))
        name = next((name.replace(old, new) for old, new in block.items() if old in name), name)
        if ".q_proj" in name:
            value = torch.cat([theirs[key.replace("q_proj", n)] for n in ("q_proj", "k_proj", "v_proj")])
            name = name.replace("attention.q_proj", "attn.qkv")
        if ".k_proj" not in name and ".v_proj" not in name:
            own[name] = value
    model.load_state_dict(own)
