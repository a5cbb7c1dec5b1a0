"""Local files: finding and reading inputs, naming outputs and writing them safely."""
