"""The HTML page that shows originals and reconstructions side by side, with figures and charts."""
