"""The denoiser's network: MONAI's U-Net, its sizes, its specification, and its conditions."""
