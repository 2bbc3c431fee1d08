"""Labelled sets of graphs as manifests: ``python -m domains.graphs.corpora FILE OUT.csv``.

``FILE`` is what the reader takes for a set (``MUTAG_A.txt``, ``PROTEINS.zip``, an S2V file). The manifest has a line a
graph, ``file,label,item``, and is what ``fmhub evaluate`` and ``fmhub finetune`` read.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

from domains.graphs.reading import GraphReader
from hub.errors import HubError, InvalidInput
from hub.reading import Source


def write_manifest(file: Path, output: Path) -> int:
    """Write the manifest of a labelled set.

    Args:
        file: The set.
        output: The CSV file to write.

    Returns:
        The number of graphs.

    Raises:
        InvalidInput: The set cannot be read, or its graphs have no labels.
    """
    rows = []
    for sample in GraphReader().read(Source.from_path(file)):
        if "label" not in sample.metadata:
            raise InvalidInput("its graphs have no labels", code="no_labels", source=str(file))
        rows.append((sample.metadata["label"], sample.key))
    # Seen from the manifest's folder, so that both can be moved together.
    place = os.path.relpath(file.resolve(), output.resolve().parent)
    with output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "item"])
        writer.writerows([place, label, key] for label, key in rows)
    return len(rows)


def main() -> None:
    """Run the script."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m domains.graphs.corpora FILE OUT.csv")
    try:
        count = write_manifest(Path(sys.argv[1]), Path(sys.argv[2]))
    except (HubError, OSError) as error:
        sys.exit(str(error))
    print(f"{count} graphs in {sys.argv[2]}")


if __name__ == "__main__":
    main()
