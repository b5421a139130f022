"""seqvis: GRU translators and visual-semantic search, trained, tuned and served on Ray."""

__version__ = "0.1.0"
