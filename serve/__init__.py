"""A server of translations and of a search for pictures, on Ray Serve."""

NEEDS = ("ray", "fastapi", "multipart", "starlette", "swagger_ui_bundle")
"""Modules of the extra `serve`."""
