"""Where the files of a Debian package are: as installed, or fetched with apt and unpacked without root."""

import shutil
import subprocess
from pathlib import Path

from zoo.codecs.errors import UserError


def debian_folder(package: str, folder: str, cache: Path) -> Path:
    """Where `folder` of a Debian package lies: as installed, or unpacked below `cache` (no root needed)."""
    for place in (Path(folder), cache / package / folder.lstrip("/")):
        if place.is_dir():
            return place
    remedy = f"install it with: sudo apt install {package}"
    if not shutil.which("apt-get"):
        raise UserError(f"{folder} is missing and this is no Debian system; take it from the Debian package {package}")
    cache.mkdir(parents=True, exist_ok=True)
    download = subprocess.run(["apt-get", "download", package], cwd=cache, capture_output=True, text=True)
    archives = sorted(cache.glob(f"{package}_*.deb"))
    if download.returncode or not archives:
        raise UserError(f"{folder} is missing and apt could not download {package}; {remedy}")
    # Unpacked beside its place and then renamed: an interrupted unpacking must not look like a finished one.
    partial = cache / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    unpack = subprocess.run(["dpkg", "-x", archives[-1], partial], capture_output=True, text=True)
    if unpack.returncode or not (partial / folder.lstrip("/")).is_dir():
        raise UserError(f"{archives[-1]} does not unpack to {folder}; remove the file or {remedy}")
    partial.rename(cache / package)
    return cache / package / folder.lstrip("/")
