"""Local files: this package finds and reads inputs, and names and writes outputs safely."""
