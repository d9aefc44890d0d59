"""What Phosphor does on an accelerator, measured in one command within minutes: `make gpu-proof`."""
