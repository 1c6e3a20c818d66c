"""Latent Consistency Model image generation on small machines; image-to-image above all."""

__version__ = "0.1.0"
