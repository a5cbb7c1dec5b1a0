"""What a person sees: console, tables, progress, signals."""
