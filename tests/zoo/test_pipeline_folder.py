"""Folders to token sets: one row a file whatever the batch, readable by Parquet readers, and whole after any kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from toy_codec import ToyCodec, ToyConfig
from toy_image_codec import ToyImageCodec

import zoo
from zoo import checkpoint, pipeline_folder, pipeline_rows
from zoo.cli_options import PICTURE_STARTER, STARTER
from zoo.cli_tokenize import starter_for
from zoo.codecs.audio.io import read_audio
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_image
from zoo.pipeline_folder import reconstruct_row, tokenize_folder
from zoo.token_set_manifest import read_manifest
from zoo.token_sets import TokenSet

RESIDUAL = dict(
    sample_rate=8000, ratios=(5, 4, 4), filters=2, dim=4, codebooks=4, codebook_size=16, lstm_layers=0, pad="constant"
)  # fmt: skip


@pytest.fixture
def speech(tmp_path):
    """Recordings of two speakers, some of equal length, and one in the folder itself."""
    folder = tmp_path / "speech"
    for number, (name, samples) in enumerate(
        {"ann/1": 4001, "ann/2": 900, "ben/1": 4001, "ben/deep/2": 4001, "top": 17}.items()
    ):
        write_sound(folder / f"{name}.wav", samples, number)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Pictures of two sizes in two classes."""
    folder = tmp_path / "pictures"
    draw = np.random.default_rng(0)
    for number, size in enumerate([(12, 20), (21, 9), (12, 20)]):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return folder


def write_sound(path: Path, samples: int, seed: int = 0, rate: int = 8000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, (samples, channels))
    soundfile.write(path, noise.clip(-1, 1), rate)


def rows_of(folder: Path) -> list[dict]:
    """All rows, as anybody reads them: with pyarrow, and without this package."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def digests(folder: Path) -> list[str]:
    return [shard.sha256 for shard in read_manifest(folder).shards]


# Everything in one batch; a sample or pixel at most, so that each file is coded by itself, in chunks if it is audio.
@pytest.mark.parametrize("amount", [10_000, 0])
def test_rows_hold_what_the_codec_gives_for_each_recording_alone(speech, tmp_path, monkeypatch, amount):
    monkeypatch.setattr(pipeline_rows, "BATCH_SECONDS", amount)
    codec = ToyCodec()
    tokenize_folder(speech, tmp_path / "set", codec, shard_files=2)
    rows = rows_of(tmp_path / "set")
    assert [row["path"] for row in rows] == ["ann/1.wav", "ann/2.wav", "ben/1.wav", "ben/deep/2.wav", "top.wav"]
    assert [row["label"] for row in rows] == ["ann", "ann", "ben", "ben", None]
    for row in rows:
        audio = torch.from_numpy(read_audio(speech / row["path"])[0])[None]
        expected = codec.encode(audio)
        assert np.array_equal(np.array(row["codes"]), expected.codes[0])
        assert row["shape"] == [row["length"]] == [expected.codes.shape[2]]
        assert row["scale"] == expected.scales[0]
        assert row["samples"] == audio.shape[2] and row["seconds"] == audio.shape[2] / 8000


@pytest.mark.parametrize("amount", [100_000, 0])
def test_rows_hold_what_the_codec_gives_for_each_picture_alone(pictures, tmp_path, monkeypatch, amount):
    monkeypatch.setattr(pipeline_rows, "BATCH_PIXELS", amount)
    codec = ToyImageCodec().eval()
    manifest = tokenize_folder(pictures, tmp_path / "set", codec, codebooks=3)
    rows = rows_of(tmp_path / "set")
    assert manifest.labels == ("class0", "class1") and manifest.pixels == 2 * 12 * 20 + 21 * 9
    for row in rows:
        picture = torch.from_numpy(read_image(pictures / row["path"]))[None]
        expected = codec.encode(picture, 3)
        assert np.array_equal(np.array(row["codes"]).reshape(-1, *row["shape"]), expected.codes[0])
        assert (row["height"], row["width"]) == tuple(picture.shape[2:])
        assert row["depth"] is None and row["scale"] is None


def test_pictures_at_a_rate_have_cells_of_different_depth(pictures, tmp_path):
    codec = ToyImageCodec().eval()
    tokenize_folder(pictures, tmp_path / "set", codec, bpp=2.5)
    rows = rows_of(tmp_path / "set")
    depths = {depth for row in rows for depth in row["depth"]}
    assert len(depths) > 1
    for row in rows:
        assert np.array_equal((np.array(row["codes"]) >= 0).sum(0), row["depth"])


def test_recordings_at_a_rate_have_frames_of_different_depth(speech, tmp_path):
    torch.manual_seed(0)
    codec = zoo.create("seanet", **RESIDUAL).eval()
    tokenize_folder(speech, tmp_path / "set", codec, kbps=0.9, vary=True)
    longest = rows_of(tmp_path / "set")[0]
    depth = (np.array(longest["codes"]) >= 0).sum(0)
    assert np.array_equal(depth, longest["depth"])
    assert 4 * depth.sum() / longest["seconds"] <= 900  # bits a second
    assert TokenSet(tmp_path / "set").tokens(0).depth.tolist() == [longest["depth"]]


def test_other_rates_are_resampled_and_surplus_channels_averaged(tmp_path):
    write_sound(tmp_path / "in/a.wav", 6000, rate=16000, channels=2)
    codec = ToyCodec()
    tokenize_folder(tmp_path / "in", tmp_path / "set", codec)
    audio = torch.from_numpy(read_audio(tmp_path / "in/a.wav", 8000, mono=True)[0])[None]
    assert np.array_equal(np.array(rows_of(tmp_path / "set")[0]["codes"]), codec.encode(audio).codes[0])


def test_a_stereo_codec_takes_both_channels_and_twice_a_mono_one(tmp_path):
    write_sound(tmp_path / "in/mono.wav", 800)
    write_sound(tmp_path / "in/stereo.wav", 800, channels=2)
    codec = ToyCodec(ToyConfig(channels=2))
    tokenize_folder(tmp_path / "in", tmp_path / "set", codec)
    for row in rows_of(tmp_path / "set"):
        audio = torch.from_numpy(read_audio(tmp_path / "in" / row["path"])[0]).expand(2, -1)[None]
        assert np.array_equal(np.array(row["codes"]), codec.encode(audio).codes[0])


def test_texts_lie_beside_the_media(speech, tmp_path):
    (speech / "ann/2.txt").write_text("two wörds\n", encoding="utf-8")
    manifest = tokenize_folder(speech, tmp_path / "set", ToyCodec())
    assert [row["text"] for row in rows_of(tmp_path / "set")] == [None, "two wörds", None, None, None]
    assert manifest.texts == 1


def test_texts_may_come_in_one_file(speech, tmp_path):
    (speech / "ann/2.txt").write_text("not this")
    texts = tmp_path / "texts.tsv"
    texts.write_text("ben/deep/2.wav\tdeep\ttext\nelsewhere.wav\tno\n")
    tokenize_folder(speech, tmp_path / "set", ToyCodec(), texts=texts)
    assert [row["text"] for row in rows_of(tmp_path / "set")] == [None, None, None, "deep\ttext", None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ann/1.wav no tab\n", "line 1 has no tab"),
        (b"a\tb\na\tc\n", "line 2 names 'a' a second time"),
        (b"x.wav\ttext\n", "none of its 1 paths is one of the 5 files"),
        (b"ann/1.wav\t\xff\n", "is no UTF-8 text"),
        (b"", "is empty"),
    ],
)
def test_a_file_of_texts_that_makes_no_sense_is_refused(speech, tmp_path, content, message):
    (tmp_path / "texts.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        tokenize_folder(speech, tmp_path / "set", ToyCodec(), texts=tmp_path / "texts.tsv")


def test_files_that_cannot_be_read_are_listed_and_the_others_done(speech, tmp_path):
    (speech / "ann/0.wav").write_bytes(b"no audio")
    (speech / "ben/3.wav").write_bytes(b"")
    (speech / "top.txt").write_bytes(b"\xff\xfe\xff")
    manifest = tokenize_folder(speech, tmp_path / "set", ToyCodec(), shard_files=2)
    assert [failure.path for failure in manifest.failed] == ["ann/0.wav", "ben/3.wav", "top.wav"]
    assert "is empty" in manifest.failed[1].reason and "UTF-8" in manifest.failed[2].reason
    assert (manifest.files, manifest.items) == (7, 4)
    assert len(rows_of(tmp_path / "set")) == 4


def test_a_file_that_the_codec_refuses_does_not_take_its_batch_along(speech, tmp_path):
    class Picky(ToyCodec):
        def encode_rows(self, media, codebooks, scales, search=None):
            if media.shape[-1] == 900:
                raise ValueError("900 samples are not to its taste")
            return super().encode_rows(media, codebooks, scales, search)

    manifest = tokenize_folder(speech, tmp_path / "set", Picky())
    assert [(failure.path, failure.reason) for failure in manifest.failed] == [
        ("ann/2.wav", "900 samples are not to its taste")
    ]
    assert manifest.items == 4


def test_it_is_an_error_if_no_file_can_be_read_and_nothing_stays(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"in/{name}.wav").parent.mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.wav").write_bytes(b"no audio")
    with pytest.raises(UserError, match="none of 2 files could be tokenized; the first, a.wav: "):
        tokenize_folder(tmp_path / "in", tmp_path / "set", ToyCodec(), shard_files=1)
    assert not (tmp_path / "set").exists()


def test_the_manifest_says_what_the_shards_hold(speech, tmp_path):
    manifest = tokenize_folder(speech, tmp_path / "set", ToyCodec(), codebooks=1, shard_files=3)
    rows = rows_of(tmp_path / "set")
    assert [shard.rows for shard in manifest.shards] == [3, 2]
    assert manifest.codes == sum(len(book) for row in rows for book in row["codes"])
    assert manifest.seconds == pytest.approx((3 * 4001 + 900 + 17) / 8000)
    assert manifest.codebook_sizes == (256,) and manifest.info == ToyCodec().info
    assert manifest.settings["codebooks"] == 1
    assert {"torch", "pyarrow", "python"} <= set(manifest.software)
    assert manifest == read_manifest(tmp_path / "set")


DATASETS = """
import json, sys, datasets
folder = sys.argv[1]
by_folder = datasets.load_dataset(folder, split="train")  # as the set's README.md says
by_files = datasets.load_dataset("parquet", data_files=folder + "/tokens-*.parquet", split="train")
assert not any(name.partition(".")[0] == "zoo" for name in sys.modules)
json.dump([by_folder.to_list(), by_files.to_list()], sys.stdout)
"""


def test_hugging_face_datasets_read_a_set_offline_and_without_this_package(speech, tmp_path):
    (speech / "top.txt").write_text("téxt")
    tokenize_folder(speech, tmp_path / "set", ToyCodec(), shard_files=2)
    rows = rows_of(tmp_path / "set")
    TokenSet(tmp_path / "set").write_durations([None] * len(rows))  # lies beside the rows, and is none of them
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-I", "-c", DATASETS, str(tmp_path / "set")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [rows, rows] and len(rows) == 5


def test_codes_take_two_bytes_where_these_suffice(pictures, speech, tmp_path):
    def stored(folder):
        return str(pq.read_schema(next(folder.glob("*.parquet"))).field("codes").type)

    tokenize_folder(speech, tmp_path / "small", ToyCodec())
    assert "int16" in stored(tmp_path / "small")
    codec = zoo.create("magvit2", width=4, multipliers=(1, 2), blocks=1, groups=4, bits=18).eval()
    tokenize_folder(pictures, tmp_path / "large", codec)
    assert "int32" in stored(tmp_path / "large")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Directory of a small audio codec of 4 codebooks."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("models") / "small.speech"
    checkpoint.save(zoo.create("seanet", **RESIDUAL), directory)
    return str(directory)


@pytest.mark.slow
def test_after_any_kill_the_same_command_completes_the_very_set_of_an_undisturbed_run(model, tmp_path):
    for number in range(120):
        write_sound(tmp_path / f"in/{number % 7}/{number:03}.wav", 4000 + number % 3, number)
    (tmp_path / "in/3/broken.wav").write_bytes(b"no audio")
    expected = tokenize_folder(tmp_path / "in", tmp_path / "whole", model, shard_files=4)
    target = tmp_path / "set"
    command = [sys.executable, "-m", "zoo.cli", "tokenize", tmp_path / "in", "--out", target, "-m", model]
    command = [*map(str, command), "--shard", "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for least in (1, 12):  # shards that are there when the process is killed
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while len(list(target.glob("*.parquet"))) < least:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not read_manifest(target).complete and len(list(target.glob("*.parquet"))) < 31
        with pytest.raises(UserError, match="was interrupted"):
            TokenSet(target)
    (target / ".zoo-0123456789ab.part").write_bytes(b"what a killed process leaves")
    manifest = tokenize_folder(tmp_path / "in", target, model, shard_files=4)
    assert (manifest.files, manifest.items, manifest.failed[0].path) == (121, 120, "3/broken.wav")
    assert read_manifest(target) == expected
    assert sorted(path.name for path in target.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )
    paths = [row["path"] for row in rows_of(target)]
    assert len(paths) == len(set(paths)) == 120


def test_an_interrupted_run_is_completed_by_the_next(speech, tmp_path):
    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    expected = tokenize_folder(speech, tmp_path / "whole", ToyCodec(), shard_files=3)
    with pytest.raises(KeyboardInterrupt):
        tokenize_folder(speech, tmp_path / "set", ToyCodec(), shard_files=3, progress=interrupt)
    assert len(rows_of(tmp_path / "set")) == 3
    assert tokenize_folder(speech, tmp_path / "set", ToyCodec(), shard_files=3) == expected
    assert rows_of(tmp_path / "set") == rows_of(tmp_path / "whole")


def test_what_is_done_is_not_done_again(speech, tmp_path):
    class Counting(ToyCodec):
        coded = 0

        def encode_rows(self, media, codebooks, scales, search=None):
            Counting.coded += len(media)
            return super().encode_rows(media, codebooks, scales, search)

    expected = tokenize_folder(speech, tmp_path / "set", Counting(), shard_files=2)
    assert Counting.coded == 5
    assert tokenize_folder(speech, tmp_path / "set", Counting(), shard_files=2) == expected
    assert Counting.coded == 5
    next(iter(sorted((tmp_path / "set").glob("*.parquet")))).unlink()
    assert tokenize_folder(speech, tmp_path / "set", Counting(), shard_files=2) == expected
    assert Counting.coded == 7
    assert len(TokenSet(tmp_path / "set")) == 5


def test_progress_counts_the_files(speech, tmp_path):
    seen = []
    tokenize_folder(speech, tmp_path / "set", ToyCodec(), shard_files=3, progress=lambda *now: seen.append(now))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {5} and seen[-1] == (5, 5) and {done for done, _ in seen} == set(range(1, 6))


def changed_files(speech, options):
    write_sound(speech / "ben/new.wav", 100)


def changed_text(speech, options):
    (speech / "ben/1.txt").write_text("a text")


def changed_settings(speech, options):
    options["codebooks"] = 1


@pytest.mark.parametrize("change", [changed_files, changed_text, changed_settings])
def test_a_set_that_was_begun_otherwise_is_refused(speech, tmp_path, change):
    options = {}
    tokenize_folder(speech, tmp_path / "set", ToyCodec(), **options)
    before = digests(tmp_path / "set")
    change(speech, options)
    with pytest.raises(UserError, match="was begun with other"):
        tokenize_folder(speech, tmp_path / "set", ToyCodec(), **options)
    assert digests(tmp_path / "set") == before


def test_other_weights_are_refused(speech, tmp_path):
    codec = ToyCodec()
    codec.weights = "aa" * 32
    tokenize_folder(speech, tmp_path / "set", codec)
    codec.weights = "bb" * 32
    with pytest.raises(UserError, match="was begun with other weights"):
        tokenize_folder(speech, tmp_path / "set", codec)


def test_a_folder_of_other_things_is_not_written_to(speech, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that are no token set"):
        tokenize_folder(speech, tmp_path / "set", ToyCodec())
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]


def test_two_processes_do_not_write_one_set(speech, tmp_path):
    with pipeline_folder.claimed(tmp_path / "set"):
        with pytest.raises(UserError, match="another process is writing it"):
            tokenize_folder(speech, tmp_path / "set", ToyCodec())
    assert tokenize_folder(speech, tmp_path / "set", ToyCodec()).items == 5


def test_a_rate_that_the_media_do_not_have_is_refused_before_any_work(speech, pictures, tmp_path):
    with pytest.raises(UserError, match="bpp means nothing for audio"):
        tokenize_folder(speech, tmp_path / "set", ToyCodec(), bpp=1.0)
    with pytest.raises(UserError, match="kbps means nothing for pictures"):
        tokenize_folder(pictures, tmp_path / "set", ToyImageCodec(), kbps=1.0)
    with pytest.raises(UserError, match="give kbps as well"):
        tokenize_folder(speech, tmp_path / "set", ToyCodec(), vary=True)
    with pytest.raises(UserError, match="holds no audio file"):
        tokenize_folder(pictures, tmp_path / "set", ToyCodec())
    assert not (tmp_path / "set").exists()


def test_rows_are_reconstructed_as_the_codec_would(speech, pictures, tmp_path):
    codec = ToyCodec()
    tokenize_folder(speech, tmp_path / "set", codec, shard_files=2)
    facts = reconstruct_row(tmp_path / "set", 3, tmp_path / "again.wav", codec)
    audio = torch.from_numpy(read_audio(speech / "ben/deep/2.wav")[0])[None]
    again = read_audio(tmp_path / "again.wav")[0]
    assert facts["seconds"] == 4001 / 8000
    assert np.abs(again - codec.decode(codec.encode(audio))[0].numpy()).max() < 1 / 30000  # of 16 bits
    painter = ToyImageCodec().eval()
    tokenize_folder(pictures, tmp_path / "pictures-set", painter)
    reconstruct_row(tmp_path / "pictures-set", 2, tmp_path / "again.png", painter)
    picture = torch.from_numpy(read_image(pictures / "class1/1.png"))[None]
    expected = painter.decode(painter.encode(picture))[0].numpy()
    assert np.abs(read_image(tmp_path / "again.png") - expected).max() < 1 / 500  # of 8 bits


def test_the_command_line_makes_describes_and_plays_back_a_set(run, model, speech, tmp_path):
    target = tmp_path / "set"
    code, out, err = run("tokenize", speech, "--out", target, "-m", model, "-n", 2)
    assert (code, err) == (0, "") and out.startswith(f"{speech} -> {target}: 5 items, 1.6 s of audio")
    code, out, err = run("info", target)
    assert (code, err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["items"] == "5" and facts["complete"] == "yes" and facts["labels"] == "2: ann, ben"
    code, out, _ = run("info", target, "--json")
    assert json.loads(out)["codebook_sizes"] == [16, 16]
    code, out, err = run("reconstruct", target, "--row", 1, "-o", tmp_path / "row.wav", "-m", model)
    assert (code, err) == (0, "") and soundfile.info(tmp_path / "row.wav").frames == 900


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct", "SET", "-o", "a.wav"], "say which of its rows"),
        (["reconstruct", "SET", "--row", "5", "-o", "a.wav", "-m", "MODEL"], "holds rows 0 to 4"),
        (["reconstruct", "SET", "--row", "0", "-o", "a.wav"], "does not ship with this program"),
        (["reconstruct", "SET", "--row", "0", "-o", "a.wav", "-m", "spectral.speech-16khz"], "was made by codec"),
        (["reconstruct", "SET", "--row", "0", "-n", "1", "-o", "a.wav"], "codebooks means nothing for token sets"),
        (["tokenize", "SPEECH", "SPEECH", "--out", "other"], "give one folder"),
        (["tokenize", "SPEECH", "--mix", "--out", "other"], "mix means nothing for token sets"),
        (["tokenize", "SPEECH/top.wav", "--shard", "4", "--out", "other"], "shard means nothing for single files"),
        (["tokenize", "SPEECH", "--out", "SPEECH/top.wav", "-m", "MODEL"], "cannot be a folder"),
    ],
)
def test_wrong_usage_is_one_line(run, model, speech, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    tokenize_folder(speech, "set", model)
    names = {"SET": "set", "MODEL": model, "SPEECH": str(speech), "SPEECH/top.wav": str(speech / "top.wav")}
    code, _, err = run(*(names.get(argument, argument) for argument in arguments))
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_a_damaged_shard_is_one_clear_error(speech, tmp_path):
    tokenize_folder(speech, tmp_path / "set", ToyCodec())
    shard = next((tmp_path / "set").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 0x10  # in the middle of the codes' pages
    shard.write_bytes(data)
    with pytest.raises(UserError, match="missing or damaged"):
        TokenSet(tmp_path / "set").codes()
    shard.write_bytes(data[:-1])
    with pytest.raises(UserError, match="missing or damaged"):
        TokenSet(tmp_path / "set")
    (tmp_path / "set/manifest.json").write_text('{"format": "zoo token set"}')
    with pytest.raises(UserError, match="missing 'complete'"):
        TokenSet(tmp_path / "set")
    (tmp_path / "set/manifest.json").unlink()
    with pytest.raises(UserError, match="is no token set"):
        TokenSet(tmp_path / "set")


def test_a_folder_is_coded_by_the_starter_for_most_of_its_files(tmp_path):
    for name in ("a/one.wav", "b/two.PNG", "b/three.jpg", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert starter_for(tmp_path) == PICTURE_STARTER
    assert starter_for(tmp_path / "a") == STARTER
