"""The page that puts originals and reconstructions side by side: figures, pictures, HTML."""
