"""The latent file (`.dinac`). Each record holds the whitened latents and metadata of one image.

Readers treat input as hostile: they check every declared size before they allocate memory for it.
This module imports nothing, so that code for names and headers loads neither numpy nor zstandard.
"""
