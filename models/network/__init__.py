"""The denoiser's network: MONAI's U-Net, its sizes, its specification, and what it is conditioned on."""
