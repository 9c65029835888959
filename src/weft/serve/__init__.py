"""`weft serve`: the fine-tuning API on this machine. Nothing is imported here, so that each module loads late."""
