"""Models: how `--model` resolves, identities, devices, and the DINAC-AE network.

This module imports nothing, so the torch-free modules stay cheap to import.
"""
