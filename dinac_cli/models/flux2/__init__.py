"""The autoencoder of FLUX.2, as the diffusers library computes it."""
