"""Further ways to ask the same engine: the Open Inference Protocol, streams of rows, and a Hugging Face endpoint."""
