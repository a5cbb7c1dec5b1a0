"""Finds, identifies and runs models. This file imports nothing, so importing it is fast."""
