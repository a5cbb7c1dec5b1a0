"""Writes an HTML page of originals and reconstructions side by side, with figures and charts."""
