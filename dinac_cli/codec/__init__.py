"""One image and one record: pixels to latents and back on one device, and the record's content."""
