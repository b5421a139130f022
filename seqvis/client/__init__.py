"""A client of a running server (client.py), light enough for any program."""

from seqvis.client.client import Client
from seqvis.client.errors import (
    ClientError,
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    ServerFaultError,
    UnreachableError,
)
from seqvis.client.results import (
    Added,
    Application,
    Candidate,
    Found,
    Match,
    NewPicture,
    Picture,
    Search,
    Streamed,
    Translation,
    Version,
    Word,
)

__all__ = [
    "Added",
    "Application",
    "Candidate",
    "Client",
    "ClientError",
    "ForbiddenError",
    "Found",
    "Match",
    "NewPicture",
    "NotFoundError",
    "OverloadedError",
    "Picture",
    "RefusedError",
    "Search",
    "ServerFaultError",
    "Streamed",
    "Translation",
    "UnreachableError",
    "Version",
    "Word",
]
