"""Examples: reading, checking, mending, splitting and naming them by content."""
