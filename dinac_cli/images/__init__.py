"""Images to 8-bit sRGB pixels and back. Submodules import Pillow only where they need it."""
