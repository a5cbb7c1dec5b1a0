"""A run follows what OUT holds for every option that is not given, and names these options."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.container.record import read_header

from .conftest import list_files, read_files, save
from .processes import run

SETTINGS = (
    *("--precision", "q6", "--resize", "32", "--crop", "24x16", "--flip"),
    *("--anonymous", "--background", "#112233"),
)
FOLLOWED = "--precision q6 --resize 32 --crop 24x16 --flip --background '#112233' --anonymous"
CHOOSE = "choose another OUT, or add --overwrite to re-encode everything"

DECODING = (
    *("-n", "2", "--sampler", "dpmpp-2m", "--schedule", "cosine", "--guidance", "1.5"),
    *("--strength", "0.5", "--seed", "-7", "--format", "webp"),
)
DECODING_FOLLOWED = (
    "--steps 2 --sampler dpmpp-2m --schedule cosine --guidance 1.5 --strength 0.5 --seed -7 "
    "--format webp"
)


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a transparent image in `photos`, and `latents` with settings of all kinds."""
    folder = tmp_path_factory.mktemp("shaped")
    (folder / "photos").mkdir()
    Image.new("RGBA", (48, 40), (200, 100, 50, 90)).save(folder / "photos/a.png")
    assert run("encode", "photos", "latents", *SETTINGS, "-q", cwd=folder).code == 0
    return folder


@pytest.fixture(scope="module")
def decoded(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one WebP, decoded with settings of all kinds."""
    folder = tmp_path_factory.mktemp("decoded")
    done = run("decode", work / "latents/a.jpg.dinac", folder, *DECODING)
    assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture
def own(shaped: Path, tmp_path: Path) -> Path:
    """A copy of `shaped` that a test may change."""
    folder = Path(shutil.copytree(shaped, tmp_path / "own"))
    # An anonymous record holds no hash: it must be younger than its source, which is a new file.
    os.utime(folder / "latents/a.png.dinac")
    return folder


def read_kind(path: Path) -> tuple[str, str, bool]:
    """Returns a record's precision, its image field and whether it is anonymous."""
    with path.open("rb") as file:
        header = read_header(file)
    return header.precision, header.image, header.is_anonymous


class TestEncode:
    def test_settings_that_are_not_given_follow_the_first_record(self, own: Path) -> None:
        shutil.copy(own / "photos/a.png", own / "photos/b.png")
        done = run("encode", "photos", "latents", cwd=own)
        assert (done.code, done.err) == (0, f"dinac: following latents/a.png.dinac: {FOLLOWED}\n")
        assert done.summary == "1 encoded with nano, 1 already done; SIZES in TIME\n"
        first, second = (read_kind(own / f"latents/{name}.png.dinac") for name in "ab")
        assert first == second
        assert first[1].endswith(
            "alpha=composited-#112233;frame=1/1;resize=32;crop=24x16;flip=twin"
        )

    def test_tensors_beside_the_latents_are_followed(self, tmp_path: Path) -> None:
        """Otherwise a dataset would fail at the first file that was added later."""
        (tmp_path / "photos").mkdir()
        for name in "ab":
            Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / f"photos/{name}.png")
            done = run("encode", "photos", "out", *(["--posterior"] * (name == "a")), cwd=tmp_path)
            assert done.code == 0
        assert done.err == "dinac: following out/a.png.dinac: --posterior\n"
        records = run("info", "out", "--json", cwd=tmp_path).objects[:-1]
        assert [record["posterior"] for record in records] == [True, True]
        plain = run("encode", "photos", "out", "--no-posterior", cwd=tmp_path)
        assert (plain.code, plain.out) == (0, "0 encoded with nano, 2 already done\n")

    def test_quiet_runs_follow_in_silence(self, own: Path) -> None:
        shutil.copy(own / "photos/a.png", own / "photos/b.png")
        done = run("encode", "photos", "latents", "--quiet", cwd=own)
        assert (done.code, done.out, done.err) == (0, "", "")
        assert read_kind(own / "latents/b.png.dinac") == read_kind(own / "latents/a.png.dinac")

    def test_given_options_are_not_named(self, shaped: Path) -> None:
        done = run("encode", "photos", "latents", *SETTINGS, cwd=shaped)
        assert (done.code, done.err) == (0, "")
        some = run("encode", "photos", "latents", "--flip", "--crop", "24x16", cwd=shaped)
        rest = "--precision q6 --resize 32 --background '#112233' --anonymous"
        assert some.err == f"dinac: following latents/a.png.dinac: {rest}\n"

    def test_defaults_are_not_named(self, work: Path) -> None:
        done = run("encode", "photos", "latents", cwd=work)
        assert (done.code, done.err) == (0, "")

    def test_an_out_of_one_file_is_followed(self, shaped: Path) -> None:
        done = run("encode", "photos/a.png", "latents/a.png.dinac", cwd=shaped)
        assert (done.code, done.out) == (0, "0 encoded with nano, 1 already done\n")

    @pytest.mark.parametrize(
        ("options", "held", "asked"),
        [
            (("--precision", "bf16"), "q6 latents", "--precision bf16"),
            (("--resize", "64"), "latents with --resize 32", "--resize 64"),
            (("--resize", "none"), "latents with --resize 32", "--resize none"),
            (("--max-side", "64"), "latents with --resize 32", "--max-side 64"),
            (("--crop", "none"), "latents with --crop 24x16", "--crop none"),
            (("--no-flip",), "latents with --flip", "--no-flip"),
            (
                ("--background", "white"),
                "latents with --background #112233",
                "--background #ffffff",
            ),
        ],
    )
    def test_a_given_option_wins_and_conflicts(
        self, shaped: Path, options: tuple[str, ...], held: str, asked: str
    ) -> None:
        done = run("encode", "photos", "latents", *options, cwd=shaped)
        refusal = f"latents holds {held}; you asked for {asked} (latents/a.png.dinac); {CHOOSE}"
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {refusal}\n")
        planned = run("plan", "photos", "latents", *options, "--json", cwd=shaped)
        assert (planned.code, planned.err) == (2, "")
        assert planned.objects[-1]["refused"] == refusal

    def test_full_size_latents_are_named(self, work: Path) -> None:
        done = run("encode", "photos", "latents", "--resize", "64", cwd=work)
        assert done.err == (
            "dinac: latents holds full-size latents; you asked for --resize 64 "
            f"(latents/a.jpg.dinac); {CHOOSE}\n"
        )

    def test_no_anonymous_accepts_anonymous_records(self, own: Path) -> None:
        save(own / "photos/b.png", 48, 40)
        done = run("encode", "photos", "latents", "--no-anonymous", "-q", cwd=own)
        assert (done.code, done.err) == (0, "")
        anonymous = [read_kind(own / f"latents/{name}.png.dinac")[2] for name in "ab"]
        assert anonymous == [True, False]

    def test_checksum_cannot_follow_anonymous_records(self, shaped: Path) -> None:
        done = run("encode", "photos", "latents", "--checksum", cwd=shaped)
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            "dinac: latents/a.png.dinac is anonymous and holds no hash to compare; "
            "leave out --checksum, or add --no-anonymous\n"
        )

    def test_overwrite_follows_nothing(self, own: Path) -> None:
        done = run("encode", "photos", "latents", "--overwrite", cwd=own)
        assert (done.code, done.err) == (0, "")
        precision, image, is_anonymous = read_kind(own / "latents/a.png.dinac")
        assert (precision, image[-9:], is_anonymous) == ("bf16", "frame=1/1", False)

    def test_plan_follows_as_encode_does(self, own: Path) -> None:
        save(own / "photos/b.png", 48, 40)
        planned = run("plan", "photos", "latents", "--json", "--quick", cwd=own)
        assert planned.err == f"dinac: following latents/a.png.dinac: {FOLLOWED}\n"
        assert [entry["state"] for entry in planned.objects[:-1]] == ["done", "new"]
        assert planned.objects[-1]["pixels"] == 24 * 16
        dry = run("encode", "photos", "latents", "--dry-run", "--json", cwd=own)
        assert (dry.code, dry.err) == (0, planned.err)

    def test_records_with_other_settings_fail_alone(self, own: Path) -> None:
        save(own / "photos/b.png", 48, 40)
        assert run("encode", "photos/b.png", "latents/b.png.dinac", "-q", cwd=own).code == 0
        done = run("encode", "photos", "latents", cwd=own)
        assert (done.code, done.out) == (3, "0 encoded with nano, 1 already done, 1 failed\n")
        assert done.err.splitlines()[-1] == (
            "dinac: photos/b.png: latents/b.png.dinac holds bf16 latents; "
            "this run uses --precision q6; choose another OUT or add --overwrite"
        )


class TestDecode:
    def test_settings_and_format_follow_the_first_image(
        self, work: Path, decoded: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(decoded, tmp_path / "out"))
        done = run("decode", "latents", out, cwd=work)
        assert (done.code, done.err) == (
            0,
            f"dinac: following {out}/a.jpg.webp: {DECODING_FOLLOWED}\n",
        )
        assert done.summary == "3 decoded, 1 already done; SIZES in TIME\n"
        assert {Path(name).suffix for name in list_files(out)} == {".webp"}
        expected = tmp_path / "expected"
        assert run("decode", "latents", expected, *DECODING, "-q", cwd=work).code == 0
        assert read_files(out) == read_files(expected)

    @pytest.mark.parametrize("word", ["off", "none"])
    def test_a_given_option_wins_and_conflicts(self, work: Path, decoded: Path, word: str) -> None:
        line = ("decode", work / "latents", decoded)
        done = run(*line, "--guidance", word)
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            f"dinac: {decoded} holds images decoded with --guidance 1.5; "
            f"you asked for --guidance off ({decoded}/a.jpg.webp); "
            "choose another OUT, or add --overwrite to decode everything again\n"
        )

    def test_an_image_with_other_settings_than_the_first_is_refused(
        self, work: Path, decoded: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(decoded, tmp_path / "out"))
        line = ("decode", work / "latents/b.png.dinac", out)
        assert run(*line, "--steps", "1", "-f", "png").code == 0
        done = run(*line, "--steps", "3", "-f", "png")
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            f"dinac: {out} holds images decoded with --steps 1; "
            f"you asked for --steps 3 ({out}/b.png); "
            "choose another OUT, or add --overwrite to decode everything again\n"
        )
        assert run(*line, "-f", "webp", "--overwrite").code == 0
        followed = run(*line, "-f", "webp")
        assert followed.code == 2
        assert "holds images decoded with --steps 1 --sampler ddim " in followed.err
        assert "; this run uses --steps 2 --sampler dpmpp-2m " in followed.err

    def test_a_given_format_follows_the_other_settings(
        self, work: Path, decoded: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(decoded, tmp_path / "out"))
        line = ("decode", work / "latents/a.jpg.dinac", out, "--format", "png")
        followed = DECODING_FOLLOWED.removesuffix(" --format webp")
        assert run(*line).err == f"dinac: following {out}/a.jpg.webp: {followed}\n"
        other = run("decode", work / "latents/b.png.dinac", out, "-f", "bmp", "-n", "1")
        assert (other.code, list_files(out)) == (0, ["a.jpg.png", "a.jpg.webp", "b.png.bmp"])

    def test_images_of_the_given_format_are_followed_first(
        self, work: Path, decoded: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(decoded, tmp_path / "out"))
        shutil.copy(work / "decoded/a.jpg.png", out)
        line = ("decode", work / "latents/a.jpg.dinac", out)
        assert run(*line).err == ""
        done = run(*line, "-f", "webp")
        followed = DECODING_FOLLOWED.removesuffix(" --format webp")
        assert (done.code, done.out) == (0, "0 decoded, 1 already done\n")
        assert done.err == f"dinac: following {out}/a.jpg.webp: {followed}\n"

    def test_the_suffix_of_an_image_file_wins(self, work: Path, tmp_path: Path) -> None:
        out = tmp_path / "x.jpg"
        line = ("decode", work / "latents/a.jpg.dinac", out)
        assert run(*line, "--steps", "2").code == 0
        again = run(*line)
        assert (again.code, again.out) == (0, "0 decoded, 1 already done\n")
        assert again.err == f"dinac: following {out}: --steps 2\n"

    def test_overwrite_follows_nothing(self, work: Path, decoded: Path, tmp_path: Path) -> None:
        out = Path(shutil.copytree(decoded, tmp_path / "out"))
        line = ("decode", work / "latents/a.jpg.dinac")
        done = run(*line, out, "--overwrite")
        assert (done.code, done.err) == (0, "")
        assert (out / "a.jpg.png").read_bytes() == (work / "decoded/a.jpg.png").read_bytes()
