"""The file formats of graphs, one module each."""
