"""The run lifecycle, drawn from the code: `python -m diagrams` writes the files of this folder."""
