"""Models: choice, identity, device and network. Imports nothing, so that it starts fast."""
