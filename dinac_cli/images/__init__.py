"""Image files to 8-bit sRGB pixels and back. Only the modules that need Pillow import it."""
