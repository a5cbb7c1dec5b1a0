"""The README as a whole: its picture, and every command in it."""
