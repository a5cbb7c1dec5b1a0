"""Tests of the README's picture and of all its commands."""
