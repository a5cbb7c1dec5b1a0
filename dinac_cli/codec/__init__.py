"""One image and one record: pixels to latents and back on one device, and what a record says."""
