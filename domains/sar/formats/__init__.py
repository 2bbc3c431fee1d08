"""The containers of SAR images, each to a `Raster` whose pixels are still in the file."""
