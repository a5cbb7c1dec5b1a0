"""Metadata of an image (place, author, comments) stays in its own file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, IptcImagePlugin, PngImagePlugin

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.zstd import decompress_content
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import DecodeOptions, decode_inputs
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.models.interface import DinacAEInferenceConfig

from .hand_made import draw, images_out, latents_out, run_control, select_images, select_latents

MARK = "SecretPlace"
LATITUDE = (52.0, 31.0, 7.25)
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li>{MARK}</rdf:li></x:xmpmeta>'.encode()


def make_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = exif[ExifTags.Base.ImageDescription] = MARK
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = MARK.encode()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N"
    gps[ExifTags.GPS.GPSLatitude] = LATITUDE
    gps[ExifTags.GPS.GPSAreaInformation] = MARK
    return exif


def make_iptc() -> bytes:
    """Returns an APP13 segment with the city (2:90)."""
    field = b"\x1c\x02\x5a" + struct.pack(">H", len(MARK)) + MARK.encode()
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(field)) + field + b"\0" * (len(field) % 2)
    content = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def write_photographs(folder: Path) -> None:
    """Writes one image of each format, with the mark wherever the format has room for it."""
    folder.mkdir()
    image, exif = Image.fromarray(draw(0)), make_exif()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + MARK.encode()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, xmp=XMP, comment=MARK, icc_profile=profile)
    jpeg = buffer.getvalue()
    (folder / "a.jpg").write_bytes(jpeg[:2] + make_iptc() + jpeg[2:])
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", MARK)
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    text.add_itxt("Author", MARK)
    image.save(folder / "b.png", pnginfo=text, exif=exif)
    image.save(folder / "c.webp", exif=exif, xmp=XMP)
    image.save(folder / "d.tif", tiffinfo={270: MARK, 315: MARK, 700: XMP})


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_photographs(folder)
    for path in folder.iterdir():
        assert MARK.encode() in path.read_bytes(), path
    with Image.open(folder / "a.jpg") as image:
        assert image.getexif().get_ifd(ExifTags.IFD.GPSInfo)[2] == LATITUDE
        found = IptcImagePlugin.getiptcinfo(image)
        assert found is not None
        assert found[2, 90] == MARK.encode()
    return folder


def encode(photographs: Path, out: Path, encoder: ModelHandle) -> list[Path]:
    run = encode_inputs(
        select_images(photographs), latents_out(out), encoder, EncodeOptions(), run_control()
    )
    assert not [result.reason for result in run if result.failed]
    return sorted(out.glob("*.dinac"))


def test_metadata_stays_out_of_records(
    photographs: Path, tmp_path: Path, encoder: ModelHandle
) -> None:
    records = encode(photographs, tmp_path / "latents", encoder)
    assert len(records) == 4
    for path in records:
        data = path.read_bytes()
        content = decompress_content(data[len(PREAMBLE) :])
        assert MARK.encode() not in data + content
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        assert b"latent_space" in header
        assert not [hidden for hidden in (b"GPS", b"Exif", b"adobe") if hidden in header]


@pytest.mark.parametrize("form", OUTPUT_FORMATS)
def test_metadata_stays_out_of_decoded_images(
    form: str, photographs: Path, tmp_path: Path, encoder: ModelHandle, decoder: ModelHandle
) -> None:
    encode(photographs, tmp_path / "latents", encoder)
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=1), format=OUTPUT_FORMATS[form])
    inputs, out = select_latents(tmp_path / "latents"), tmp_path / "decoded"
    list(decode_inputs(inputs, images_out(out), FixedModel(decoder), options, run_control()))
    images = sorted(out.iterdir())
    assert len(images) == 4
    for path in images:
        assert MARK.encode() not in path.read_bytes()
        with Image.open(path) as image:
            assert image.getexif().get_ifd(ExifTags.IFD.GPSInfo) == {}
            assert not {"exif", "icc_profile", "comment", "photoshop"} & image.info.keys()
            assert np.asarray(image).shape == (20, 30, 3)
