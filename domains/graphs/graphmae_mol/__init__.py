"""GraphMAE on molecules (Hou et al., KDD 2022, arXiv 2205.10803): atoms are hidden and their types restored."""
