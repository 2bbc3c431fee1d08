"""One module a file format: bytes to `Raw`, held against `Limits` before anything is decoded."""
