"""The preconditioning keeps inputs and targets at unit variance; padding keeps geometry exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.diffusion.denoiser import Denoiser
from models.diffusion.parametrisation import PARAMETRISATIONS, edm, flow
from models.network.network import NetworkSpec
from models.optim.precision import Precision, apply_precision

sigmas = st.floats(1e-3, 1e3)
deviations = st.floats(0.05, 5.0)


def spec(height: int, width: int) -> NetworkSpec:
    return NetworkSpec(
        (height, width),
        2,
        channels=(8, 8, 16),
        attention=(False, False, True),
        num_head_channels=8,
        num_norm_groups=8,
    )


def trained(denoiser: Denoiser) -> Denoiser:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval()


@given(sigmas, deviations)
def test_network_input_has_unit_variance(sigma: float, sigma_data: float) -> None:
    _, _, c_in, _ = edm(torch.tensor(sigma, dtype=torch.float64), sigma_data)
    assert float(c_in**2 * (sigma**2 + sigma_data**2)) == pytest.approx(1.0)


@given(sigmas, deviations)
def test_network_target_has_unit_variance(sigma: float, sigma_data: float) -> None:
    c_skip, c_out, _, _ = edm(torch.tensor(sigma, dtype=torch.float64), sigma_data)
    # The target is (y - c_skip (y + sigma n)) / c_out for data y and unit noise n.
    variance = ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2
    assert float(variance) == pytest.approx(1.0, rel=1e-6)


@given(sigmas, deviations)
def test_skip_weight_makes_the_output_error_smallest(sigma: float, sigma_data: float) -> None:
    c_skip, c_out, _, _ = edm(torch.tensor(sigma, dtype=torch.float64), sigma_data)
    for other in (c_skip * 0.99, c_skip * 1.01):
        assert float((1 - other) ** 2 * sigma_data**2 + other**2 * sigma**2) >= float(c_out**2) * (1 - 1e-9)


@given(sigmas, deviations)
def test_flow_is_the_straight_path_between_data_and_noise(sigma: float, sigma_data: float) -> None:
    level = torch.tensor(sigma, dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = flow(level, sigma_data)
    time = (c_noise + 1.0) / 2.0
    data, noise = 0.7 * sigma_data, -1.3
    noisy = c_in * (data + sigma * noise)
    assert float(noisy) == pytest.approx(float((1 - time) * data / sigma_data + time * noise), rel=1e-9)
    velocity = noise - data / sigma_data
    restored = c_skip * (data + sigma * noise) + c_out * velocity
    assert float(restored) == pytest.approx(data, rel=1e-6, abs=1e-9)


def test_a_log_normal_noise_level_is_a_logit_normal_time() -> None:
    sigma = torch.randn(1000, dtype=torch.float64).exp()
    _, _, _, c_noise = flow(sigma, 1.0)
    torch.testing.assert_close(torch.logit((c_noise + 1) / 2), sigma.log())


@pytest.mark.parametrize("name", sorted(PARAMETRISATIONS))
def test_patches_are_put_back_where_they_were(name: str) -> None:
    made = NetworkSpec((12, 20), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)
    patched = Denoiser(replace(made, patch_size=4), parametrisation=name)
    seen = []
    patched.network.forward = lambda x, t, class_labels: seen.append(x.shape) or x  # type: ignore[method-assign]
    x, sigma = torch.randn(2, 1, 12, 20), torch.ones(2)
    c_skip, c_out, c_in, _ = PARAMETRISATIONS[name](torch.ones(1), 0.5)
    expected = (c_skip + c_out * c_in) * x
    if patched.skip is not None:
        expected = patched.skip(x, c_in * x, sigma.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(patched(x, sigma, torch.tensor([0, 1])), expected)
    assert seen == [(2, 16, 3, 5)]


def test_fields_not_given_are_null() -> None:
    denoiser = trained(Denoiser(replace(spec(16, 16), conditions=(3, 2))))
    x, sigma = torch.randn(2, 1, 16, 16), torch.ones(2)
    classes, codes = torch.tensor([0, 1]), torch.tensor([[0, 3, 2], [1, 3, 2]])
    torch.testing.assert_close(denoiser(x, sigma, classes), denoiser(x, sigma, codes), rtol=0, atol=0)
    given = torch.tensor([[0, 1, 2], [1, 3, 0]])
    assert not torch.allclose(denoiser(x, sigma, given)[0], denoiser(x, sigma, codes)[0])
    assert not torch.allclose(denoiser(x, sigma, given)[1], denoiser(x, sigma, codes)[1])


@pytest.mark.parametrize("sigma_data", [0.5, 0.3])
def test_the_loss_weight_makes_the_error_that_of_the_networks_target(sigma_data: float) -> None:
    sigma = torch.tensor([0.1, 0.8, 10.0])
    made = {
        name: Denoiser(spec(16, 16), sigma_data=sigma_data, parametrisation=name) for name in ("edm", "flow")
    }
    # c_out is sigma sigma_data / sqrt(sigma^2 + sigma_data^2), or sigma sigma_data / (sigma + sigma_data).
    edm_weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    torch.testing.assert_close(made["edm"].loss_weight(sigma), edm_weight)
    flow_weight = ((sigma + sigma_data) / (sigma * sigma_data)) ** 2
    torch.testing.assert_close(made["flow"].loss_weight(sigma), flow_weight)


@pytest.mark.parametrize("name", sorted(PARAMETRISATIONS))
def test_denoiser_is_the_identity_without_noise(name: str) -> None:
    denoiser = trained(Denoiser(spec(16, 16), parametrisation=name))
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    # The cosines of a skip path by frequency round.
    rounding = 0.0 if denoiser.skip is None else 1e-5
    found = denoiser(x, torch.zeros(2), torch.tensor([0, 1]))
    torch.testing.assert_close(found, x, atol=rounding, rtol=0.0)


def test_new_denoiser_returns_its_skip_path() -> None:
    denoiser = Denoiser(spec(16, 16), sigma_data=0.5)
    x = torch.randn(2, 1, 16, 16)
    sigma = torch.tensor([0.5, 2.0])
    skip = (0.25 / (sigma**2 + 0.25)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(denoiser(x, sigma, torch.tensor([0, 1])), skip * x)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (30, 17), (13, 16)])
def test_any_size_comes_back_at_its_size(height: int, width: int) -> None:
    denoiser = trained(Denoiser(spec(height, width)))
    x = torch.randn(2, 1, height, width)
    assert denoiser(x, torch.ones(2), torch.tensor([0, 1])).shape == x.shape


def test_padding_is_cropped_where_it_was_added() -> None:
    odd, even = trained(Denoiser(spec(14, 14))), trained(Denoiser(spec(16, 16)))
    x = torch.randn(1, 1, 14, 14)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    sigma, labels = torch.ones(1), torch.tensor([1])
    torch.testing.assert_close(odd(x, sigma, labels), even(padded, sigma, labels)[..., 1:-1, 1:-1])


def test_class_and_null_class_change_the_result() -> None:
    denoiser = trained(Denoiser(spec(16, 16)))
    x, sigma = torch.randn(1, 1, 16, 16), torch.ones(1)
    results = [denoiser(x, sigma, torch.tensor([label])) for label in (0, 1, denoiser.null_label)]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


@torch.no_grad()
def test_bf16_compute_stays_close_and_returns_fp32() -> None:
    denoiser = trained(Denoiser(spec(16, 16)))
    x, sigma, labels = torch.randn(2, 1, 16, 16), torch.ones(2), torch.tensor([0, 1])
    exact = denoiser(x, sigma, labels)
    apply_precision(denoiser, Precision("bf16", channels_last=False))
    rough = denoiser(x, sigma, labels)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float((rough - exact).abs().mean()) < 0.05 * float(exact.std())


def test_unknown_parametrisation_is_named() -> None:
    with pytest.raises(ValueError, match="parametrisation"):
        Denoiser(spec(16, 16), parametrisation="score")


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_sigma_data_must_be_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match="sigma_data"):
        Denoiser(spec(16, 16), sigma_data=value)
