"""The fused doubling computes what MONAI's own two layers compute, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet, WrappedUpsample

from models.network.upsampling import UpsampleConvolution, fuse_upsampling


def stock_network(channels: tuple[int, ...] = (16, 32, 32)) -> DiffusionModelUNet:
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        num_res_blocks=1,
        channels=channels,
        attention_levels=(False,) * (len(channels) - 1) + (True,),
        norm_num_groups=16,
        num_head_channels=16,
        num_class_embeds=3,
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            # MONAI starts some layers at zero, which would hide everything behind them.
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def layer(seed: int, channels: int = 5, outputs: int = 7) -> WrappedUpsample:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WrappedUpsample(
            spatial_dims=2,
            mode="nontrainable",
            in_channels=channels,
            out_channels=channels,
            interp_mode="nearest",
            scale_factor=2.0,
            post_conv=_Holder(torch.nn.Conv2d(channels, outputs, 3, padding=1)),
            align_corners=None,
        )


class _Holder(torch.nn.Module):
    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(x)
        return result


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (7, 4)])
def test_the_fused_layer_equals_doubling_then_convolving(size: tuple[int, int]) -> None:
    plain = layer(seed=1).double()
    fused = UpsampleConvolution(plain.postconv)
    x = torch.randn(3, 5, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = plain(first)
    expected.square().sum().backward()
    of_plain = [parameter.grad.clone() for parameter in plain.parameters()]
    plain.zero_grad()
    found = fused(second)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second.grad, first.grad, rtol=1e-12, atol=1e-12)
    for parameter, expected_grad in zip(plain.parameters(), of_plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected_grad, rtol=1e-12, atol=1e-10)


def test_a_fused_network_keeps_names_parameters_and_function() -> None:
    network = stock_network()
    names = list(network.state_dict())
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    arguments = (x, torch.tensor([3.0, 40.0]))
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        expected = network(*arguments, class_labels=labels)
        assert fuse_upsampling(network) == 2
        found = network(*arguments, class_labels=labels)
    assert list(network.state_dict()) == names
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert fuse_upsampling(network) == 0


def test_other_ways_of_doubling_are_left_alone() -> None:
    plain = layer(seed=1)
    plain.upsample_non_trainable.mode = "bilinear"
    assert fuse_upsampling(torch.nn.Sequential(plain)) == 0
