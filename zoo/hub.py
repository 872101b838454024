"""Checkpoints from a Hugging Face hub.

`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` mean what they always do: they are read when this module is
imported, so set them before the first load.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.codecs.errors import UserError
from zoo.token_facts import TOKENS, VOCABULARIES

FILES = ("config.json", "model.safetensors")
OPTIONAL_FILES = ("manifest.json", TOKENS)


def download(address: str) -> Path:
    """Directory in the hub's cache that holds the checkpoint at `hf-hub:user/repo@revision`.

    All files come from one commit: the one that `revision` (default: main) means when the first file arrives.

    Raises:
        UserError: A malformed address, nothing under it, or no way to get it.
    """
    match = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", address, re.ASCII)
    if match is None:
        raise UserError(f"{address!r} is no hub address; expected hf-hub:user/repo or hf-hub:user/repo@revision")
    repository, revision = match[1], match[2] or "main"
    directory = fetch(repository, FILES[0], revision).parent
    commit = directory.name
    for file in FILES[1:]:
        fetch(repository, file, commit)
    for file in OPTIONAL_FILES:
        _fetch_if_there(repository, file, commit)
    if (directory / TOKENS).exists():  # of a decoder, which may have vocabularies
        for file in VOCABULARIES.values():
            _fetch_if_there(repository, file, commit)
    return directory


def _fetch_if_there(repository: str, file: str, commit: str) -> None:
    if try_to_load_from_cache(repository, file, revision=commit) is None:  # neither there nor known to be absent
        with suppress(EntryNotFoundError):
            hf_hub_download(repository, file, revision=commit)


def fetch(repository: str, file: str, revision: str) -> Path:
    """One file of a repository, from the cache or the hub.

    Raises:
        UserError: It does not exist or cannot be reached.
    """
    where = f"hf-hub:{repository}@{revision}"
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except GatedRepoError:
        problem = f"access is gated; accept its terms at {constants.ENDPOINT}/{repository} and set HF_TOKEN"
    except RepositoryNotFoundError:
        problem = f"no such repository at {constants.ENDPOINT}; check the name, or set HF_TOKEN if it is private"
    except RevisionNotFoundError:
        problem = f"the repository has no revision {revision!r}; name a branch, tag or commit of it"
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            problem = f"{file} is not in the cache and HF_HUB_OFFLINE is set; unset it and load once while online"
        else:
            problem = f"{constants.ENDPOINT} cannot be reached and {file} is not in the cache; check the network"
    except EntryNotFoundError:
        problem = f"it has no file {file}; is it a checkpoint of this project?"
    except HfHubHTTPError as error:
        problem = f"{constants.ENDPOINT} answered {error.response.status_code} for {file}; try again later"
    except (OSError, ValueError) as error:
        problem = f"{file} could not be downloaded ({str(error).splitlines()[0]}); try again"
    raise UserError(f"{where}: {problem}")
