"""Windows of volumes to vectors: padding, places, levels, sizes, and both backbones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

import hub
from domains.medical.alice.attention import WindowAttention, relative_index
from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.orientation import from_ras, to_ras
from domains.medical.alice.processing import AliceProcessor
from domains.medical.image import MedicalImage
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.publishing import save_checkpoint
from hub.reading import Sample

SIZES = {
    "nnformer": {"embed_dim": 12, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": [4, 4, 4]},
    "swin_unetr": {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": [4] * 4},
}
AFFINE = np.array([[0, 0, -2.0, 30], [0, -1.5, 0, 40], [3.0, 0, 0, -50], [0, 0, 0, 1]])
"""Slices of 3 mm, rows of 1.5 mm, columns of 2 mm, in the domain's order."""


def volume(slices: int, rows: int, columns: int, seed: int = 0, **facts) -> Sample:
    values = np.random.default_rng(seed).gamma(2.0, 100.0, (1, slices, rows, columns)).astype(np.float32)
    return Sample(MedicalImage(values, affine=AFFINE, spacing=(3.0, 1.5, 2.0), **facts))


def model(backbone: str = "nnformer", **changes) -> AliceModel:
    torch.manual_seed(0)
    return AliceModel(AliceConfig(**{"backbone": backbone, "roi": [32] * 3, **SIZES[backbone], **changes})).eval()


@pytest.mark.parametrize("backbone", list(SIZES))
def test_a_volume_gets_the_same_vector_alone_and_beside_others_and_after_saving(backbone: str, tmp_path) -> None:
    encoder, processor = model(backbone, levels=[0, -1]), AliceProcessor(roi=[32] * 3, ct_window=[50.0, 400.0])
    features = [processor.prepare(volume(*shape)) for shape in ((40, 20, 50), (9, 8, 70), (33, 64, 32))]
    together = encoder.embed(processor.pad(features))
    for feature, vector in zip(features, together, strict=True):
        torch.testing.assert_close(encoder.embed(processor.pad([feature]))[0], vector, atol=1e-5, rtol=0)
    assert together[0].shape == (encoder.config.hidden_size,)
    save_checkpoint(tmp_path, encoder, processor)
    loaded = hub.from_pretrained(tmp_path)
    for vector, again in zip(together, loaded.model.embed(loaded.processor.pad(features)), strict=True):
        assert torch.equal(vector, again)
    assert loaded.processor.to_dict() == processor.to_dict()


def test_the_vector_of_a_volume_is_the_mean_over_its_windows() -> None:
    encoder, processor = model(), AliceProcessor(roi=[32] * 3)
    sample = volume(40, 32, 50)
    batch = processor.pad([processor.prepare(sample)])
    windows = encoder.embed_windows(batch, [sample])[0]
    # 50 voxels along x: steps of 16 from 0 to 18; 40 along z.
    assert len(windows) == 3 * 1 * 2
    mean = torch.tensor([w["embedding"] for w in windows]).mean(0)
    torch.testing.assert_close(mean, encoder.embed(batch)[0], atol=1e-5, rtol=0)


def test_windows_say_where_in_the_image_they_lie() -> None:
    """A bright box is put where the answer says a window is; that window alone sees it."""
    encoder, processor = model(roi=[16] * 3), AliceProcessor(roi=[16] * 3, overlap=0.0)
    sample = volume(32, 16, 20)
    batch = processor.pad([processor.prepare(sample)])
    for i, window in enumerate(encoder.embed_windows(batch, [sample])[0]):
        marked = np.zeros_like(sample.data.values)
        where = tuple(slice(s, s + n) for s, n in zip(window["start"], window["size"], strict=True))
        marked[(0, *where)] = 1.0
        feature = processor.prepare(Sample(MedicalImage(marked, affine=AFFINE)))
        shares = [float(w.mean()) for w in processor.windows(feature)]
        assert shares[i] == 1.0 and int(np.argmax(shares)) == i
        centre = AFFINE @ [*(np.array(window["start"]) + (np.array(window["size"]) - 1) / 2), 1.0]
        assert window["centre"] == pytest.approx(list(centre[:3]))


def test_windows_of_a_resampled_or_extended_volume_are_given_in_its_own_voxels() -> None:
    encoder, processor = model(), AliceProcessor(roi=[32] * 3, spacing=[1.0, 1.0, 1.5])
    # 64 x 15 x 20 voxels after resampling: two windows of 32 along x, which the image counts from the other end.
    sample = volume(10, 10, 32)
    first, *_, last = encoder.embed_windows(processor.pad([processor.prepare(sample)]), [sample])[0]
    assert first["start"] == [0, 0, 16] and first["size"] == [10, 10, 16]
    assert last["start"] == [0, 0, 0] and last["size"] == [10, 10, 16]


def test_what_was_added_to_fill_a_window_has_no_tokens_of_its_own() -> None:
    encoder, processor = model(), AliceProcessor(roi=[32] * 3)
    feature = processor.prepare(volume(9, 32, 32))
    output = encoder(**processor.pad([feature]))
    # Nine voxels along z from the 11th on, in cells of 8: those from 8 to 24.
    assert feature["bounds"][:, 2].tolist() == [11, 20]
    real = output.mask[0].view(4, 4, 4)
    assert real[:, :, 1:3].all() and not real[:, :, [0, 3]].any()
    assert encoder.embed(processor.pad([feature]), pooling="none")[0].shape == (32, 48)


def test_the_centre_is_where_the_middle_of_the_volume_lies() -> None:
    encoder, processor = model(token_level=1, levels=[1]), AliceProcessor(roi=[32] * 3)
    feature = processor.prepare(volume(32, 32, 32))
    batch = processor.pad([feature])
    cells = encoder.pyramid(batch["volumes"])[1][0]
    (found,) = encoder.embed(batch, pooling="centre")
    torch.testing.assert_close(found, cells[:, 3:5, 3:5, 3:5].mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)
    # Of a larger volume all windows that hold the middle are asked, and one that does not is not.
    larger = processor.pad([processor.prepare(volume(32, 32, 70)), feature])
    one, other = encoder.embed(larger, pooling="centre")
    torch.testing.assert_close(other, found, atol=1e-5, rtol=0)
    assert one.shape == (24,) and torch.isfinite(one).all()


def test_levels_stand_side_by_side_on_one_grid() -> None:
    deep = model(levels=[0, 1, 2])
    maps = deep.pyramid(torch.rand(2, 1, 32, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(12, 16, 16, 16), (24, 8, 8, 8), (48, 4, 4, 4)]
    means = torch.cat([m.mean(dim=(2, 3, 4)) for m in maps], dim=1)
    torch.testing.assert_close(deep.tokens(maps).mean(dim=(2, 3, 4)), means, atol=1e-5, rtol=0)
    deep.config.token_level = 0
    torch.testing.assert_close(deep.tokens(maps).mean(dim=(2, 3, 4)), means, atol=1e-5, rtol=0)
    assert deep.tokens(maps).shape == (2, 84, 16, 16, 16)


def test_the_pyramid_takes_other_sizes_and_says_which_not() -> None:
    encoder = model()
    assert [m.shape[2:] for m in encoder.pyramid(torch.rand(1, 1, 24, 40, 16))][-1] == (3, 5, 2)
    with pytest.raises(ValueError, match="multiple of 8"):
        encoder.pyramid(torch.rand(1, 1, 20, 32, 32))


def test_cells_added_to_fill_an_attention_window_are_looked_at_by_none() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, window=4, shift=2, published=False)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    cells = torch.rand(1, 6, 6, 6, 8)
    given = torch.nn.functional.pad(cells, (0, 0, 0, 2, 0, 2, 0, 2))
    noisy = given + (given == 0) * 5.0
    attended = attention(cells)
    assert torch.isfinite(attended).all()
    # Whole windows of 4 of a grid of 8 without any shift, so that the first ones hold no added cell.
    attention.shift = 0
    torch.testing.assert_close(attention(cells)[:, :4, :4, :4], attention(noisy)[:, :4, :4, :4])
    assert not torch.allclose(attention(cells)[:, 4:], attention(noisy)[:, 4:6, :6, :6])


def test_published_offsets_share_biases_and_right_ones_do_not() -> None:
    published, right = relative_index(4, True), relative_index(4, False)
    assert right.unique().numel() == 343 and published.unique().numel() == 115
    assert int(right.max()) == 342 and int(published.max()) < 343


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        small = AliceModel(AliceConfig())
        swin = AliceModel(
            AliceConfig(backbone="swin_unetr", roi=[96] * 3, num_heads=[3, 6, 12, 24], window_size=[7] * 4)
        )
    assert small.num_parameters() == 7_651_620 and small.config.hidden_size == 384
    assert swin.num_parameters() == 8_060_000 or abs(swin.num_parameters() - 8.06e6) < 1e4
    assert swin.config.hidden_size == 768


def test_orientation_is_undone_exactly_and_matches_the_affine() -> None:
    values = np.arange(2 * 3 * 4).reshape(1, 2, 3, 4)
    ras = to_ras(values)
    np.testing.assert_array_equal(from_ras(ras), values)
    # The last voxel along x, y and z is the most to the right, to the front, and to the head.
    index = np.argwhere(values[0] == ras[0, -1, -1, -1])[0]
    corners = [AFFINE @ [k, r, c, 1.0] for k in (0, 1) for r in (0, 2) for c in (0, 3)]
    assert (AFFINE @ [*index, 1.0])[:3].tolist() == np.max(corners, axis=0)[:3].tolist()


def test_intensities_of_ct_go_through_a_window_and_others_between_percentiles() -> None:
    processor = AliceProcessor(roi=[16] * 3)
    values = np.linspace(-1000, 1000, 16**3, dtype=np.float32).reshape(1, 16, 16, 16)
    ct = processor.volume(Sample(MedicalImage(values, modality="CT")))
    expected = np.clip((to_ras(values[0]) + 125) / 350, 0, 1)
    np.testing.assert_allclose(ct.numpy(), expected, atol=1e-6)
    unknown = processor.volume(Sample(MedicalImage(values)))
    assert float((unknown == 0).float().mean()) == pytest.approx(0.005, abs=1e-3)
    brighter = processor.volume(Sample(MedicalImage(3 * values + 70)))
    torch.testing.assert_close(unknown, brighter, atol=1e-5, rtol=0)
    told = AliceProcessor(roi=[16] * 3, modality="CT", ct_window=[0.0, 2000.0]).volume(Sample(MedicalImage(values)))
    np.testing.assert_allclose(told.numpy(), (to_ras(values[0]) + 1000) / 2000, atol=1e-6)
    constant = processor.volume(Sample(MedicalImage(np.full((1, 9, 9, 9), 7.0, np.float32))))
    assert not constant.any()


def test_resampling_keeps_what_is_where() -> None:
    x = np.linspace(0, 1, 40, dtype=np.float32)
    ramp = np.broadcast_to(x, (1, 20, 30, 40)).copy()
    sample = Sample(MedicalImage(ramp, affine=AFFINE, spacing=(3.0, 1.5, 2.0)))
    same = AliceProcessor(roi=[16] * 3, percentiles=[0, 100]).volume(sample)
    halved = AliceProcessor(roi=[16] * 3, percentiles=[0, 100], spacing=[4.0, 1.5, 6.0]).volume(sample)
    assert same.shape == (40, 30, 20) and halved.shape == (20, 30, 10)
    torch.testing.assert_close(halved[2:-2, 0, 0], same.view(20, 2, 30, 20).mean(1)[2:-2, 0, 0], atol=0.02, rtol=0)


def test_what_is_no_volume_is_refused_with_what_would_be_right() -> None:
    processor = AliceProcessor(roi=[16] * 3)
    flat = Sample(MedicalImage(np.ones((3, 1, 40, 40), np.float32)))
    with pytest.raises(UnsupportedFormat, match="series") as caught:
        processor.prepare(flat)
    assert caught.value.code == "not_a_volume"
    with pytest.raises(InvalidInput, match="at least 4"):
        processor.prepare(volume(2, 40, 40))
    with pytest.raises(InvalidInput, match="spacing"):
        AliceProcessor(roi=[16] * 3, spacing=[1, 1, 1]).prepare(Sample(MedicalImage(np.ones((1, 9, 9, 9), np.float32))))
    with pytest.raises(TooLarge, match="windows"):
        AliceProcessor(roi=[16] * 3, max_windows=8).prepare(volume(40, 40, 40))


@pytest.mark.parametrize(
    "settings",
    [
        {"ct_window": "muscle"},
        {"ct_window": [50.0, 0.0]},
        {"overlap": 1.0},
        {"percentiles": [99, 1]},
        {"spacing": [1.0, 0.0, 1.0]},
        {"roi": [16, 16]},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        AliceProcessor(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backbone": "unet"}, "none of nnformer"),
        ({"roi": [60, 64, 64]}, "multiple of 16"),
        ({"levels": [4]}, "stages are 0 to 3"),
        ({"levels": []}, "at least one stage"),
        ({"num_heads": [5, 12, 24, 48]}, "5 heads"),
        ({"position_table": "learnt"}, "none of sinusoid"),
        ({"teacher_temperature": 0.0}, "positive"),
        ({"backbone": "swin_unetr", "roi": [96] * 3}, "windows of one size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(StrictDataclassError, match=said):
        AliceConfig(**settings)
