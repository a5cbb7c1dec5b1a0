"""The network's fast form, for inference."""
