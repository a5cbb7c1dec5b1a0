"""Converts image files to 8-bit sRGB pixels and back. Only modules that need Pillow import it."""
