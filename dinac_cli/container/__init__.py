"""The latent file (`.dinac`): whitened latents and what they came from, one record an image.

Reading is hostile-input code: every limit is checked before memory is taken for it. Nothing is
imported here, so that the names and the header cost neither numpy nor zstandard.
"""
