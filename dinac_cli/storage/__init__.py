"""Files in and out: what is an input, what its output is called, how it is written safely."""
