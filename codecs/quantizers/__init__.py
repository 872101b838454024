"""Quantizers: continuous latents to codes and back, all with one return type."""
