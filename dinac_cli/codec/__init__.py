"""Converts pixels to latents and back on one device, and latents to records."""
