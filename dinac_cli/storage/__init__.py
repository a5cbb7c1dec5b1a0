"""Local files: finds and reads inputs, names outputs and writes them safely."""
