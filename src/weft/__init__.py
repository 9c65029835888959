"""weft: decide by measurement whether to fine-tune, fine-tune, and prove what changed."""

__version__ = "0.1.0"
