"""The DINAC autoencoder: its network, configuration and checkpoints."""
