"""Training of the autoencoder, and latents as what the denoiser learns from."""
