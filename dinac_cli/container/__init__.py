"""The latent file (`.dinac`). Each record holds the whitened latents and metadata of one image.

Readers do not trust their input: they check every declared size before they allocate memory. This
module imports nothing. Therefore `names` and `header` can be imported without numpy and zstandard.
"""
