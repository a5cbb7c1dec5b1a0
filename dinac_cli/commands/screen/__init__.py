"""The screen of a command: console, tables, progress, signals."""
