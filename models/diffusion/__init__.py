"""The diffusion maths around the network: preconditioning, noise, loss, guidance and editing."""
