"""NIfTI volumes in every orientation, type and state of damage; and masks."""

from __future__ import annotations

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from PIL import Image

from domains.medical.masks import read_mask
from domains.medical.samples import as_dicom, phantom
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source
from tests.domains.medical.files import nifti, read_one, refused, saved


def test_a_volume_is_the_same_in_all_48_orientations() -> None:
    values = np.round(1000 * phantom(6, 10, 8)).astype(np.int16).transpose(2, 1, 0)
    affine = np.diag([1.25, 1.5, 3.0, 1.0])
    affine[:3, 3] = (5, -6, 7)
    expected = read_one(nifti(values, affine)).data
    np.testing.assert_array_equal(expected.values[0], values.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert expected.spacing == (3.0, 1.5, 1.25) and expected.slice_axis == 0
    letters = (("L", "R"), ("P", "A"), ("I", "S"))
    for axes in itertools.permutations(letters):
        for codes in itertools.product(*axes):
            change = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
            turned = nibabel.orientations.apply_orientation(values, change)
            image = read_one(nifti(turned, affine @ inv_ornt_aff(change, values.shape))).data
            np.testing.assert_array_equal(image.values, expected.values)
            np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5)
            assert image.slice_axis == 0  # the coarsest axis, wherever it is stored


def test_scales_types_and_byte_orders() -> None:
    values = np.arange(512).reshape(8, 8, 8)
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        stored = values.astype(kind)
        image = nibabel.Nifti1Image(stored, np.eye(4))
        for endian in "<>":
            header = nibabel.Nifti1Header(endianness=endian)
            header.set_data_dtype(np.dtype(kind).newbyteorder(endian))
            turned = nibabel.Nifti1Image(stored, np.eye(4), header)
            content = turned.to_bytes()
            expected = read_one(image.to_bytes()).data.values
            np.testing.assert_array_equal(read_one(content).data.values, expected)
            np.testing.assert_array_equal(read_one(gzip.compress(content)).data.values, expected)
    scaled = bytearray(nifti(values.astype(np.int16), np.eye(4)))
    scaled[112:120] = np.array([0.5, -10], "<f4").tobytes()
    np.testing.assert_allclose(read_one(bytes(scaled)).data.values.max(), 511 * 0.5 - 10)
    second = read_one(nifti(values.astype(np.int16), np.eye(4), nibabel.Nifti2Image)).data
    assert second.values.max() == 511
    single = read_one(nifti(values.astype(np.float32)[..., None], np.eye(4)))
    assert single.metadata["slices"] == 8


def test_places_that_a_nifti_header_tells_or_does_not() -> None:
    values = np.random.default_rng(0).normal(0, 1, (9, 10, 11)).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    silent = nibabel.Nifti1Image(values, None)
    silent.header.set_zooms((2, 2, 2))
    sample = read_one(silent.to_bytes())
    assert sample.data.affine is None and sample.data.spacing == (2, 2, 2) and "no orientation" in sample.warnings[0]
    by_quaternion = nibabel.Nifti1Image(values, None)
    by_quaternion.set_qform(affine, 1)
    expected = read_one(nifti(values, affine)).data.affine
    np.testing.assert_allclose(read_one(by_quaternion.to_bytes()).data.affine, expected)
    microns = nibabel.Nifti1Image(values, affine)
    microns.header.set_xyzt_units("micron")
    assert read_one(microns.to_bytes()).data.spacing == (0.002, 0.002, 0.002)
    named = nibabel.Nifti1Image(values, affine)
    named.header.set_dim_info(slice=0)
    assert read_one(named.to_bytes()).data.slice_axis == 2  # x runs from right to left in the canonical order
    contrary = nibabel.Nifti1Image(values, affine)
    contrary.header["pixdim"][1:4] = 3
    assert "two different voxel sizes" in read_one(contrary.to_bytes()).warnings[0]


def test_hounsfield_units_are_recognised_and_masks_are_not_images() -> None:
    values = np.random.default_rng(0).integers(-1024, 1500, (9, 9, 9)).astype(np.int16)
    sample = read_one(nifti(values, np.eye(4)))
    assert sample.data.modality == "CT" and "Hounsfield" in sample.warnings[0]
    assert read_one(nifti(values + np.int16(1024), np.eye(4))).data.modality == ""
    refused(nifti((values > 0).astype(np.uint8), np.eye(4)), "whole numbers 0, 1", "label_map", UnsupportedFormat)


def test_damaged_volumes_are_refused() -> None:
    content = nifti(np.random.default_rng(0).normal(0, 1, (9, 10, 11)).astype(np.float32), np.eye(4))
    packed = gzip.compress(content)
    refused(content[:-4], r"3,960 bytes of voxels are announced, 3,956", "truncated")
    refused(content[:300], "within its NIfTI header", "truncated")
    refused(packed[:-200], "gzip stream is damaged or cut off", "truncated")
    refused(packed[:-2], "gzip stream is damaged or cut off", "truncated")  # within the check sum alone
    refused(packed[:-8] + bytes(8), "gzip stream is damaged or cut off", "truncated")
    huge = bytearray(content)
    huge[40:48] = np.array([3, 2000, 2000, 2000], "<i2").tobytes()
    refused(gzip.compress(bytes(huge)), "at most", "too_many_pixels", TooLarge)
    huge[40:48] = np.array([3, 900, 900, 300], "<i2").tobytes()
    refused(gzip.compress(bytes(huge)), "compresses more than 500 times", "expands_too_much", TooLarge)
    offset = bytearray(content)
    for value in (np.nan, 0, -352, 1e30):
        offset[108:112] = np.array([value], "<f4").tobytes()
        refused(bytes(offset), "where no volume of a NIfTI file begins", "bad_offset")
    pair = bytearray(content)
    pair[344:348] = b"ni1\0"
    refused(bytes(pair), ".hdr and .img", "unsupported_format", UnsupportedFormat)
    refused(gzip.compress(as_dicom(np.eye(9))), "holds DICOM; unpack it", "unsupported_format", UnsupportedFormat)


def test_a_mask_comes_in_the_order_of_its_image_or_not_at_all() -> None:
    values = np.random.default_rng(0).normal(0, 1, (9, 10, 11)).astype(np.float32)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    image = read_one(nifti(values, affine)).data
    classes = (values > 0).astype(np.uint8) + (values > 1)
    mask = read_mask(Source.from_bytes(nifti(classes, affine)), image)
    np.testing.assert_array_equal(mask, (image.values[0] > 0).astype(int) + (image.values[0] > 1))
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 8
    flipped = read_mask(Source.from_bytes(nifti(classes[::-1], affine @ mirror)), image)
    np.testing.assert_array_equal(flipped, mask)
    assert not read_mask(Source.from_bytes(nifti(0 * classes, affine)), image).any()
    moved = affine.copy()
    moved[0, 3] = 5
    for content, code in (
        (nifti(classes[1:], affine), "mask_shape"),
        (nifti(classes, moved), "mask_place"),
        (nifti(values, affine), "bad_mask"),
        (nifti(-classes.astype(np.int16), affine), "bad_mask"),
        (nifti(classes, affine)[:-9], "truncated"),
        (as_dicom(np.eye(9)), "bad_mask"),
    ):
        with pytest.raises(InvalidInput) as caught:
            read_mask(Source.from_bytes(content, "m"), image)
        assert caught.value.code == code and caught.value.source == "m"
    picture = read_one(saved(Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)), "PNG")).data
    labels = (np.arange(400).reshape(20, 20) % 3).astype(np.uint8)
    coloured = Image.fromarray(labels)
    coloured.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    for stored in (Image.fromarray(labels), coloured):
        read = read_mask(Source.from_bytes(saved(stored, "PNG")), picture)
        np.testing.assert_array_equal(read[0], labels)
