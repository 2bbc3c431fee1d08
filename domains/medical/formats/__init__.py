"""The containers of medical images: DICOM, NIfTI, and ordinary pictures."""
