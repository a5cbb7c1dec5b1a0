"""Compares models: measures them on one set of images, times them, and writes a page and a card."""
