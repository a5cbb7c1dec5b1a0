"""The fast form of the network, for inference."""
