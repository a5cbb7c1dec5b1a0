"""Finds and reads input files. Names output files and writes them safely."""
