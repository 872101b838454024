"""The command line: results, exit codes, one-line errors, and nothing half-written."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError

SMALL = dict(
    sample_rate=8000, ratios=(5, 4, 4), filters=2, dim=4, codebooks=4, codebook_size=16, lstm_layers=0, pad="constant"
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A codec of 100 Hz and 4 x 4 bits: 1.6 kbps."""
    directory = tmp_path_factory.mktemp("model")
    checkpoint.save(zoo.create("seanet", **SMALL), directory)
    return str(directory)


@pytest.fixture
def speech(tmp_path):
    """One second of noise at 8 kHz in a WAV file."""
    return write_wav(tmp_path / "speech.wav", 1)


def write_wav(path: Path, seconds: float) -> Path:
    samples = np.random.default_rng(0).normal(0, 3000, int(8000 * seconds)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.tobytes())
    return path


def test_a_file_is_tokenized_and_reconstructed(run, model, speech, tmp_path):
    tokens, again = tmp_path / "speech.ztok", tmp_path / "again.wav"
    code, out, err = run("tokenize", speech, "-o", tokens, "--model", model, "--codebooks", 2)
    assert (code, err) == (0, "")
    assert out.startswith(f"{speech} -> {tokens}: ") and "kbps" in out and "1.00 s" in out
    code, out, err = run("reconstruct", tokens, "-o", again, "--model", model)
    assert (code, err) == (0, "")
    with wave.open(str(again)) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 8000, 1)


def test_an_audio_file_is_reconstructed_in_one_go(run, model, speech, tmp_path):
    code, _, err = run("reconstruct", speech, "-o", tmp_path / "again.wav", "--model", model)
    assert (code, err) == (0, "")
    assert (tmp_path / "again.wav").exists()


def test_several_files_go_into_a_directory_as_json_says(run, model, speech, tmp_path):
    other = write_wav(tmp_path / "other.wav", 0.5)
    code, out, err = run("tokenize", speech, other, "-o", tmp_path / "out", "-m", model, "--json")
    assert (code, err) == (0, "")
    results = json.loads(out)
    assert [result["target"] for result in results] == [str(tmp_path / f"out/{n}.ztok") for n in ("speech", "other")]
    assert all(Path(result["target"]).exists() for result in results)
    assert results[1]["seconds"] == 0.5


def test_one_bad_file_does_not_stop_the_others(run, model, speech, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    code, out, err = run("tokenize", bad, speech, tmp_path / "none.wav", "-o", tmp_path / "out", "-m", model)
    assert code == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["speech.ztok"]
    lines = err.splitlines()
    assert len(lines) == 3 and all(line.startswith("zoo: ") for line in lines)
    assert "bad.wav" in lines[0] and "none.wav" in lines[1] and "2 of 3 files failed" in lines[2]


def test_json_holds_the_errors_too(run, model, tmp_path):
    code, out, _ = run("tokenize", tmp_path / "none.wav", "-o", tmp_path / "a.ztok", "-m", model, "--json")
    assert code == 2
    assert json.loads(out)[0]["error"].startswith(str(tmp_path / "none.wav"))


def test_two_inputs_that_would_become_one_file_are_refused_before_any_work(run, model, speech, tmp_path):
    (tmp_path / "more").mkdir()
    twin = write_wav(tmp_path / "more" / "speech.wav", 1)
    code, _, err = run("tokenize", speech, twin, "-o", tmp_path / "out", "-m", model)
    assert code == 2 and "would both become" in err
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_replaced(run, model, speech, tmp_path):
    tokens = tmp_path / "a.ztok"
    tokens.write_text("old")
    assert run("tokenize", speech, "-o", tokens, "-m", model)[0] == 0
    assert tokens.read_bytes() != b"old"


def test_info_tells_rates_of_a_model_and_facts_of_a_token_file(run, model, speech, tmp_path):
    code, out, _ = run("info", model, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["kbps_by_codebooks"] == {"1": 0.4, "2": 0.8, "3": 1.2, "4": 1.6}
    assert (facts["frame_rate"], facts["sample_rate"], facts["codebooks"]) == (100, 8000, 4)
    run("tokenize", speech, "-o", tmp_path / "a.ztok", "-m", model)
    code, out, _ = run("info", tmp_path / "a.ztok", "--json")
    facts = json.loads(out)
    assert (facts["frames"], facts["seconds"], facts["channels"]) == (100, 1.0, 1)
    code, out, _ = run("info", model)
    assert code == 0 and "sample_rate        8000\n" in out


def test_list_gives_the_bundled_models(run):
    code, out, _ = run("list", "--json")
    assert code == 0
    assert [facts["name"] for facts in json.loads(out)] == zoo.list_models()
    assert run("list", "no such*") == (0, "", "zoo: no bundled model matches 'no such*'; `zoo list` shows all\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "No such command 'lst'"),
        (["tokenize"], "Missing argument"),
        (["tokenize", "a.wav"], "Missing option '--output'"),
        (["tokenize", "a.wav", "-o", "b", "--codebooks", "0"], "--codebooks"),
        (["tokenize", "a.wav", "-o", "b", "-m", "spectral.speach"], "no model 'spectral.speach'"),
        (["info", "hf-hub:nothing"], "is no hub address"),
        (["train", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["convert", "none.ckpt", "-o", "x"], "none.ckpt: no such file"),
        (["evaluate", "none", "x"], "no model 'none'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("zoo: ") and message in err and err.count("\n") == 1


def test_a_device_that_is_not_there_is_bad_usage(run, model, speech, tmp_path):
    code, _, err = run("tokenize", speech, "-o", tmp_path / "a", "-m", model, "--device", "cuda:99")
    assert code == 2 and "device 'cuda:99' is not usable here" in err


def test_our_own_fault_is_exit_code_1_and_debug_shows_where(run, monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda pattern: 1 / 0, raising=False)
    code, _, err = run("list")
    assert code == 1
    assert err.startswith("zoo: internal error: ZeroDivisionError") and err.count("\n") == 1
    code, _, err = run("list", "--debug")
    assert code == 1 and "Traceback" in err


def test_a_missing_extra_is_named_with_the_command_that_installs_it(run, monkeypatch):
    def fail(pattern):
        raise ModuleNotFoundError("No module named 'pesq'", name="pesq")

    monkeypatch.setattr(zoo, "list_models", fail, raising=False)
    code, _, err = run("list")
    assert (code, err) == (2, "zoo: this needs the package pesq; run: pip install 'media-token-zoo[all]'\n")


def test_an_error_of_several_lines_is_printed_in_one(run, monkeypatch):
    def fail(pattern):
        raise UserError("first\nsecond")

    monkeypatch.setattr(zoo, "list_models", fail, raising=False)
    assert run("list") == (2, "", "zoo: first second\n")


def test_every_command_explains_itself_with_an_example(run):
    benches = ("bench codecs", "bench quantizers", "bench entropy", "bench decoders", "bench assisted")
    for command in ("list", "info", "tokenize", "reconstruct", "generate", "train", "evaluate", "convert", *benches):
        code, out, _ = run(*command.split(), "--help")
        assert code == 0 and f"zoo {command}" in out.split("Options")[0].split("Usage")[1].split("\n", 1)[1]


def test_entropy_coding_is_measured_in_one_json_document(run, model, speech, tmp_path):
    code, out, _ = run("bench", "entropy", model, speech, "--json", "-o", tmp_path / "bench.json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "bench.json").read_text())
    assert json.loads(out)["data"]["files"] == 1


def test_version_is_the_packages(run):
    assert run("--version") == (0, f"zoo {zoo.__version__}\n", "")


def test_help_does_not_wait_for_torch():
    code = "import sys; from zoo.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_interruption_is_exit_code_130_and_leaves_no_file(model, tmp_path):
    long = write_wav(tmp_path / "long.wav", 3600)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "zoo.cli", "tokenize", str(long), "-o", str(out / "long.ztok"), "-m", model]
    # A shell that runs the tests in the background has them ignore interrupts, which children inherit.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, preexec_fn=heed)
    deadline = time.monotonic() + 60
    while not list(out.iterdir()):  # the file under another name: the work has begun
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert not list(out.iterdir())
