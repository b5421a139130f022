"""Searches for settings on Ray Tune, one file each, and the report of what mattered in them."""
