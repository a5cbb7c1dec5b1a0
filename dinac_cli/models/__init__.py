"""The DINAC-AE network: its configuration, checkpoints, identity, and the autoencoder itself.

Nothing is imported here, so that the torch-free modules stay cheap to reach.
"""
