"""Tensors only: the denoiser, its objective, samplers, EMA and checkpoint format; knows no files of scans."""
