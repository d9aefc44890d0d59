"""Parametrisations of the network's target: EDM's mix of noise and data, or the velocity of a flow."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]
"""(c_skip, c_out, c_in, c_noise): D(x; sigma) = c_skip x + c_out F(c_in x, c_noise)."""


def edm(sigma: Tensor, sigma_data: float) -> Coefficients:
    """EDM's preconditioning (arXiv 2206.00364, table 1): unit variance of the network's input and target.

    Args:
        sigma: noise levels, any shape, not negative. At zero, ``c_skip`` is 1 and ``c_out`` is 0 (identity).
        sigma_data: standard deviation of the data.

    Returns:
        Four tensors of the shape of ``sigma``.
    """
    total = sigma.square() + sigma_data**2
    c_skip = sigma_data**2 / total
    c_out = sigma * sigma_data / total.sqrt()
    c_in = 1.0 / total.sqrt()
    # The floor keeps sigma = 0 finite; it is below all noise levels of training and sampling.
    c_noise = sigma.clamp_min(1e-4).log() / 4.0
    return c_skip, c_out, c_in, c_noise


def flow(sigma: Tensor, sigma_data: float) -> Coefficients:
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003) in terms of x = data + sigma noise.

    The straight path x_t = (1 - t) data / sigma_data + t noise is the noisy image x scaled by
    (1 - t) / sigma_data, where t = s / (1 + s) and s = sigma / sigma_data. The network predicts the velocity
    noise - data / sigma_data; the clean image is x_t minus t times the velocity. A logit-normal t is a
    log-normal sigma, so training draws noise levels as for EDM.

    Args:
        sigma: noise levels, any shape, not negative. At zero the result is the identity, as for EDM.
        sigma_data: standard deviation of the data.

    Returns:
        Four tensors of the shape of ``sigma``; ``c_noise`` is 2 t - 1, in [-1, 1).
    """
    ratio = sigma / sigma_data
    time = ratio / (1.0 + ratio)
    return 1.0 - time, -time * sigma_data, (1.0 - time) / sigma_data, 2.0 * time - 1.0


PARAMETRISATIONS: dict[str, Callable[[Tensor, float], Coefficients]] = {
    "edm": edm,
    "flow": flow,
    "spectral": edm,
}
"""Name -> coefficients. Of EDM's, `spectral` takes the input and the noise embedding; its skip path and loss
weight stand in `models/diffusion/spectral.py`."""
