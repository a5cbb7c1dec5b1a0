"""The latent file (`.dinac`): one image's whitened latents and metadata in each record.

Readers treat input as hostile: they check every limit before they allocate memory for it. This
module imports nothing, so that names and headers need neither numpy nor zstandard.
"""
