"""The four networks of the demo, untrained, and the embedding of the guidance weight."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

CONTEXT = 77  # tokens
TEXT_WIDTH = 128
GUIDANCE_WIDTH = 256


def make_vae() -> AutoencoderKL:
    """An f8 autoencoder of 4 channels, narrow where the picture is large: there its time goes."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        act_fn="relu",
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=256,
        scaling_factor=1.0,
    )


def make_unet() -> UNet2DConditionModel:
    """A UNet for teacher and student; its guidance embedding says nothing yet."""
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(80, 96, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        time_cond_proj_dim=GUIDANCE_WIDTH,
    )
    torch.nn.init.zeros_(unet.time_embedding.cond_proj.weight)
    return unet


def make_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """A small CLIP text encoder; as CLIP numbers them, the last two tokens are start and end."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=TEXT_WIDTH,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )


def guidance_embedding(w: Tensor) -> Tensor:
    """Sinusoids of the guidance weight w = guidance_scale - 1: (batch,) -> (batch, GUIDANCE_WIDTH).

    As get_guidance_scale_embedding in diffusers (after Kingma et al., 2021, "Variational Diffusion
    Models").
    """
    half = GUIDANCE_WIDTH // 2
    frequencies = torch.exp(
        torch.arange(half, device=w.device) * (-torch.log(torch.tensor(1e4)).item() / (half - 1))
    )
    angles = w[:, None] * 1000 * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], 1)
