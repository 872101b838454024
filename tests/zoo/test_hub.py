"""Checkpoints from a hub: a real HTTP server on localhost, and a process of its own for each load.

huggingface_hub reads its environment variables when it is imported, so only a fresh process shows that they count.
"""

import json
import os
import subprocess
import sys

import pytest
from hub_server import Hub
from small_generators import text_decoder

import zoo
from zoo import checkpoint

SMALL = dict(ratios=(4, 2), filters=2, dim=4, codebooks=2, codebook_size=8, lstm_layers=0)
WORKER = """
import sys
from pathlib import Path
import zoo
from zoo import checkpoints

checkpoints._root = lambda: Path("bundled")
for line in sys.stdin:
    try:
        codec = zoo.load(line.strip())
        print(codec.name, codec.weights, codec.config.ratios, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""
DOWNLOAD = """
import sys
from zoo.hub import download

try:
    print(download(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""

WRITE = """
import sys
import zoo

print(zoo.generate(sys.argv[1], prompt="a", steps=8).text[0].encode().hex())
"""


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the fresh processes run; the hub's cache is in it, and `bundled`, the checkpoints that they know."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "bundled").mkdir()
    return folder


@pytest.fixture(scope="module")
def environment(hub, folder):
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | settings


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint's files, name to content."""
    directory = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(zoo.create("seanet", **SMALL), directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def load(environment, folder):
    """Load an address in the one fresh process; returns what it printed: a line."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", WORKER], env=environment, cwd=folder, **pipes) as worker:

        def ask(address: str) -> str:
            worker.stdin.write(address + "\n")
            worker.stdin.flush()
            return worker.stdout.readline().strip()

        yield ask
        worker.stdin.close()


@pytest.fixture
def download(environment, folder):
    """Download an address in a process of its own; returns what it printed."""

    def run(address: str, **settings: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", DOWNLOAD, address], env=environment | settings, capture_output=True, text=True,
            cwd=folder, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def digest(files: dict[str, bytes]) -> str:
    return json.loads(files["config.json"])["sha256"]


def test_a_repository_is_loaded_in_whole_from_the_commit_of_its_first_file(hub, load, files, folder):
    commit = hub.publish("user/first", files)
    assert load("hf-hub:user/first") == f"hf-hub:user/first {digest(files)} (4, 2)"
    assert (folder / "cache/hub/models--user--first/snapshots" / commit / "config.json").exists()
    later = [request for request in hub.sent if "/user/first/" in request and "config.json" not in request]
    assert later and all(f"/resolve/{commit}/" in request for request in later)


def test_what_was_downloaded_needs_no_network_again(hub, load, download, files):
    commit = hub.publish("user/cached", files)
    assert digest(files) in load("hf-hub:user/cached")
    requests = len(hub.sent)
    assert download("hf-hub:user/cached", HF_HUB_OFFLINE="1").endswith(commit)
    assert len(hub.sent) == requests
    hub.status = 503
    try:
        assert digest(files) in load("hf-hub:user/cached")
    finally:
        hub.status = None


def test_a_decoder_comes_with_its_tokens(hub, environment, folder, tmp_path):
    checkpoint.save(text_decoder(), tmp_path)
    hub.publish("user/writer", {path.name: path.read_bytes() for path in tmp_path.iterdir()})
    command = [sys.executable, "-c", WRITE, "hf-hub:user/writer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == zoo.generate(tmp_path, prompt="a", steps=8).text[0].encode().hex()


def test_a_revision_may_be_a_tag_or_a_commit_and_names_what_was_loaded(hub, load, files):
    old = hub.publish("user/tagged", files, "v1")
    hub.publish("user/tagged", {"config.json": b"{}"}, "main")
    for revision in ("v1", old):
        assert load(f"hf-hub:user/tagged@{revision}") == f"hf-hub:user/tagged@{revision} {digest(files)} (4, 2)"
    assert "UserError" in load("hf-hub:user/tagged")


def test_a_download_that_breaks_off_is_resumed_where_it_stopped(hub, load, files):
    hub.publish("user/broken", files)
    hub.cut = len(files["model.safetensors"]) // 2
    assert digest(files) in load("hf-hub:user/broken")
    assert sum(r.startswith("GET") and "/user/broken/" in r and "model" in r for r in hub.sent) == 2


def test_weights_that_are_not_those_of_the_config_are_refused_with_the_remedy(hub, load, files):
    damaged = files["model.safetensors"][:-1] + b"?"
    hub.publish("user/damaged", files | {"model.safetensors": damaged})
    message = load("hf-hub:user/damaged")
    assert message.startswith("UserError hf-hub:user/damaged: ")
    assert "sha256 is" in message and "delete" in message and "models--user--damaged and load again" in message


def test_a_manifest_in_the_repository_is_checked_too(hub, load, files):
    manifest = dict(name="seanet.x", description="", licence="MIT", sha256="0" * 64, parameters=1)
    hub.publish("user/manifest", files | {"manifest.json": json.dumps(manifest).encode()})
    assert "the manifest says 000000000000" in load("hf-hub:user/manifest")


def test_a_bundled_manifest_may_leave_its_weights_on_the_hub(hub, load, files, folder):
    commit = hub.publish("user/remote", {"weights.safetensors": files["model.safetensors"]})
    bundled = folder / "bundled" / "seanet.remote"
    bundled.mkdir()
    manifest = dict(name="seanet.remote", description="", licence="MIT", parameters=1, repository="user/remote")
    manifest |= dict(file="weights.safetensors", revision=commit, sha256=digest(files))
    (bundled / "manifest.json").write_text(json.dumps(manifest))
    (bundled / "config.json").write_bytes(files["config.json"])
    assert load("seanet.remote") == f"seanet.remote {digest(files)} (4, 2)"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf-hub:user/nothing", "hf-hub:user/nothing@main: no such repository at http://127.0.0.1:"),
        ("hf-hub:user/codec@v9", "hf-hub:user/codec@v9: the repository has no revision 'v9'; name a branch"),
        ("hf-hub:user/empty", "hf-hub:user/empty@main: it has no file config.json; is it a checkpoint"),
        ("hf-hub:codec", "'hf-hub:codec' is no hub address; expected hf-hub:user/repo"),
        ("hf-hub:user/../x", "is no hub address"),
    ],
)
def test_what_is_not_on_the_hub_gives_one_line_with_the_remedy(hub, load, files, address, message):
    hub.publish("user/codec", files)
    hub.publish("user/empty", {"README.md": b"nothing"})
    found = load(address)
    assert found.startswith("UserError ") and message in found


def test_offline_and_not_cached_is_one_line_with_the_remedy(hub, download, files):
    hub.publish("user/offline", files)
    found = download("hf-hub:user/offline", HF_HUB_OFFLINE="1")
    assert found.startswith("UserError hf-hub:user/offline@main: config.json is not in the cache and HF_HUB_OFFLINE")
    assert "\n" not in found and not any("user/offline" in request for request in hub.sent)


@pytest.mark.slow  # 24 seconds: huggingface_hub tries six times, with pauses
def test_a_hub_that_cannot_be_reached_is_one_line_with_the_remedy(download):
    found = download("hf-hub:user/codec", HF_ENDPOINT="http://127.0.0.1:9")  # the discard port: nobody listens
    assert found.startswith("UserError hf-hub:user/codec@main: http://127.0.0.1:9 cannot be reached")
    assert "\n" not in found
