"""Networks that measure images: LPIPS and the Inception features of rFID."""
