"""Checks of a config before GPU hours are spent on it."""
