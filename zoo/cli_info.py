"""`zoo list` and `zoo info`: what is told about models, token files and token sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from zoo.cli_options import Json, print_json


def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, in quotes.")] = "*", as_json: Json = False
) -> None:
    """List the bundled models.

    Example: [bold]zoo list "*16khz*"[/]
    """
    manifests = [zoo.info(name) for name in zoo.list_models(pattern)]
    if as_json:
        facts = [{"name": m.name, "description": m.description, "licence": m.licence} for m in manifests]
        return print_json(facts)
    for manifest in manifests:
        print(f"{manifest.name:<28} {manifest.description}")
    if not manifests:
        print(f"zoo: no bundled model matches {pattern!r}; `zoo list` shows all", file=sys.stderr)


def info_command(
    target: Annotated[str, typer.Argument(help="Model (name, directory, hub address), token file or token set.")],
    as_json: Json = False,
) -> None:
    """Say all that is known about a model, a token file or a token set.

    Example: [bold]zoo info spectral.speech-16khz[/]

    Example: [bold]zoo info speech.ztok --json[/]
    """
    from zoo.token_set_manifest import is_token_set

    if is_token_set(target):
        facts = token_set_facts(target, brief=not as_json)
    else:
        facts = token_file_facts(target) if Path(target).is_file() else model_facts(target)
    if as_json:
        return print_json(facts)
    for name, value in facts.items():
        print(f"{name:<18} {readable(value)}")


def token_file_facts(path: str) -> dict[str, Any]:
    """What the head of a token file says."""
    from zoo.container import TokenReader

    with TokenReader(path) as reader:
        return {"file": path} | reader.facts()


def token_set_facts(path: str, brief: bool) -> dict[str, Any]:
    """What the manifest of a token set says; `brief` as a person wants it."""
    from zoo.configs import to_json
    from zoo.token_set_manifest import read_manifest

    manifest = read_manifest(path)
    if not brief:
        return {"set": path} | to_json(manifest)
    audio = manifest.info.media == "audio"
    amount = f"{manifest.seconds:.1f} s of audio" if audio else f"{manifest.pixels / 1e6:.2f} megapixels"
    size = sum(shard.bytes for shard in manifest.shards)
    codes = f"{manifest.codes} codes of {len(manifest.codebook_sizes)} codebooks"
    failed = [f"{failure.path} ({failure.reason})" for failure in manifest.failed]
    return {
        "set": path,
        "complete": "yes" if manifest.complete else "no: give the same command again to go on",
        "codec": manifest.codec,
        "weights": manifest.weights,
        "settings": manifest.settings,
        "files": manifest.files,
        "items": manifest.items,
        "amount": f"{amount}, {codes}",
        "codebook_sizes": manifest.codebook_sizes,
        "texts": manifest.texts,
        "labels": f"{len(manifest.labels)}: {readable(manifest.labels[:8])}" if manifest.labels else "",
        "failed": f"{len(failed)}: {readable(failed[:8])}" if failed else 0,
        "shards": f"{len(manifest.shards)} shard{'s' * (len(manifest.shards) != 1)}, {size} bytes",
        "software": manifest.software,
    }


def model_facts(name: str) -> dict[str, Any]:
    """What the model's manifest and the loaded model itself say."""
    from dataclasses import asdict

    from zoo.codecs.base import Codec

    codec = zoo.load(name)
    facts = asdict(zoo.info(name)) if name in zoo.list_models() else {"name": codec.name}
    info = codec.info
    if not isinstance(codec, Codec):
        tokens = codec.tokens.to_json()
        text = None if tokens.pop("vocabulary") is None else f"{codec.tokens.vocabulary.card} tokens"
        told = None if tokens.pop("text_vocabulary") is None else f"{codec.tokens.text_vocabulary.size} ids"
        return facts | info.asdict() | tokens | {"text": text, "text_vocabulary": told, "sha256": codec.weights}
    name, rate = ("bpp", info.bpp) if info.media == "image" else ("kbps", info.kbps)
    rates = {n: round(rate(n), 3) for n in range(1, info.codebooks + 1)}
    return facts | info.asdict() | {"sha256": codec.weights, f"{name}_by_codebooks": rates}


def summary(facts: dict[str, Any]) -> str:
    """The facts about a written file that people look for."""
    shown = {
        "kbps": "{:.3g} kbps", "bpp": "{:.3g} bits per pixel", "psnr": "PSNR {:.2f} dB", "codebooks": "{} codebooks",
        "seconds": "{:.2f} s", "width": "{} pixels wide", "height": "{} high", "bytes": "{} bytes",
    }  # fmt: skip
    return ", ".join(form.format(facts[name]) for name, form in shown.items() if name in facts)


def readable(value: Any) -> str:
    """A fact as a person would write it."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {readable(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value in ("", None) else str(value)
