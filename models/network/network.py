"""The network inside the denoiser: MONAI's diffusion U-Net, built from its specification."""

from __future__ import annotations

import torch
from torch import nn

from models.network.condition import ConditionEmbedding
from models.network.spec import NetworkSpec
from models.network.upsampling import fuse_upsampling

__all__ = ["NetworkSpec", "build_network"]


def build_network(spec: NetworkSpec, *, seed: int) -> nn.Module:
    """Build MONAI's ``DiffusionModelUNet`` with random initial weights.

    The output convolution starts at zero, so a new denoiser returns its skip path alone. Upsampling and the
    convolution after it run as one layer (`models/network/upsampling.py`), with MONAI's parameter names.

    Args:
        spec: shape of the network.
        seed: seed of the initial weights; the global random state is not changed.

    Returns:
        A network in fp32: ``forward(x (N, C, H, W), timesteps (N,), class_labels=condition) -> (N, C, H, W)``
        with C = in_channels patch_size^2 and the condition of ``models/network/condition.py``.
    """
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    channels = spec.in_channels * spec.patch_size**2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=channels,
            out_channels=channels,
            num_res_blocks=spec.num_res_blocks,
            channels=spec.channels,
            attention_levels=spec.attention,
            norm_num_groups=spec.num_norm_groups,
            num_head_channels=spec.num_head_channels,
            num_class_embeds=1,
        )
        width = network.class_embedding.embedding_dim
        network.add_module(
            "class_embedding", ConditionEmbedding(spec.num_values, spec.augment_features, width)
        )
    with torch.no_grad():
        for parameter in network.out[-1].parameters():
            parameter.zero_()
    fuse_upsampling(network)
    return network
