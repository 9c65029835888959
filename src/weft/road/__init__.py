"""The whole road, one file per stage: prepare → measure → tune → conclude. Stages meet in the run's folder.

Each stage leaves its product there and skips what is already there, so an interrupted road goes on where it was.
"""
