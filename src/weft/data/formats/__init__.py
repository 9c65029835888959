"""How examples lie in files: one file per container (lines, array, table) and one for the layouts of a row."""
