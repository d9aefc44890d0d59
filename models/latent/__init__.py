"""The autoencoder of latent diffusion and its specification."""
