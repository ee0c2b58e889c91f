"""The hub: checkpoints in huggingface_hub's own cache, to fetch, to find and to remove.

huggingface_hub honours HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT, resumes a
connection that breaks, and keeps the files that an earlier download completed. Only weights as
safetensors, JSON and tokenizer files are fetched: never a pickle. A large file's content must have
the sha256 that the hub states.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.models.cache import Removable, disk_bytes
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.files import read_json

if TYPE_CHECKING:
    from charprobe_lite.models.catalogue_schema import Kind, Source

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
ROWS = (".jsonl", ".parquet")
CONFIG = {"base": "config.json", "adapter": "adapter_config.json", "classifier": "config.json"}
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
SHA256 = re.compile(r"[0-9a-f]{64}")
# huggingface_hub's HTTP client is requests, httpx or httpx2: their exceptions, by name
STATUS = {"HTTPError", "HfHubHTTPError"}
INTERRUPTED = {"ChunkedEncodingError", "RemoteProtocolError", "ReadError"}
UNREACHABLE = {"ConnectionError", "Timeout", "TransportError"}


def pull_dataset(repository: str) -> Path:
    """Fetch a dataset of the hub that is one JSON lines or parquet file; the file in the cache.

    When the hub cannot be reached, an earlier download is enough. Raises BadInput like ``fetch``.
    """
    with _downloader(repository) as library:
        folder = library.snapshot_download(
            repository, repo_type="dataset", allow_patterns=[f"*{suffix}" for suffix in ROWS]
        )
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in ROWS)
    _refuse_corrupt(files)
    if len(files) != 1:
        raise BadInput(f"{repository}: holds {len(files)} files of rows; name one with --prompts")
    return files[0]


def local_path(source: Source) -> Path | None:
    """Where an entry's files are on this machine, when all are there; asks no server."""
    if source.repository is None:
        with suppress(BadInput):
            return fetch(source)
        return None
    cache = _repository_folder(source.repository)
    try:
        commit = (cache / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    folder = cache / "snapshots" / commit / (source.subfolder or "")
    return folder if commit and _is_complete(folder, source.kind) else None


def fetch(source: Source) -> Path:
    """Where an entry's files are; missing files of a repository are fetched into the hub's cache.

    When the hub cannot be reached, a complete folder in the cache is enough. Raises BadInput with
    one line that says what to accept (a gated repository), to set or to fix.
    """
    from charprobe_lite.models.kit import embedded_base

    if source.repository:
        return _pull(source.repository, source)
    if source.path is None:
        return embedded_base()
    if not source.path.exists():
        raise BadInput(f"{source.path}: no such file or folder; fix path in the catalogue")
    return source.path


def _pull(repository: str, source: Source) -> Path:
    prefix = f"{source.subfolder}/" if source.subfolder else ""
    before = local_path(source)
    with _downloader(repository) as library:
        library.snapshot_download(
            repository,
            allow_patterns=[prefix + pattern for pattern in PATTERNS],
            ignore_patterns=[f"{prefix}*/*"],  # in a pattern, * passes slashes too
        )
        folder = local_path(source)
        if folder is None:
            # without an answer the library falls back on an earlier snapshot: ask the hub why
            library.HfApi().model_info(repository)
    if folder is None:
        place = f"folder {source.subfolder}" if source.subfolder else "top folder"
        raise BadInput(
            f"{repository}: its {place} holds no complete {source.kind} ({CONFIG[source.kind]} "
            "and *.safetensors); fix repository and subfolder in the catalogue"
        )
    if folder != before:  # also what an earlier download that was killed left unchecked
        _refuse_corrupt(sorted(folder.iterdir()))
    return folder


def _refuse_corrupt(files: Iterable[Path]) -> None:
    """BadInput for a file whose content does not have the sha256 that the cache names it by.

    It is removed, so that the next download fetches it. The hub states no sha256 of small files.
    """
    from charprobe_lite.models.kit import sha256_file

    for file in files:
        blob = file.resolve()
        if SHA256.fullmatch(blob.name) and sha256_file(blob) != blob.name:
            file.unlink()
            blob.unlink(missing_ok=True)
            raise BadInput(
                f"{file}: does not have the sha256 that the hub states, and was removed; "
                "run the same command again to fetch it"
            )


def removable_downloads(repositories: Iterable[str]) -> list[Removable]:
    """These repositories' folders in the hub's cache, with unfinished downloads; no links."""
    items = []
    for repository in repositories:
        folder = _repository_folder(repository)
        lock_folder = folder.parent / ".locks" / folder.name
        locks = tuple(sorted(lock_folder.glob("*.lock")))
        for path in (folder, lock_folder):
            if path.is_dir() and not path.is_symlink():
                items.append(Removable(path, disk_bytes(path), locks))
    return items


def cache_root() -> Path:
    return Path(_library().constants.HF_HUB_CACHE)


def downloaded_bytes(source: Source) -> int:
    """Bytes of an entry's files that are on disk already."""
    if not source.repository:
        return 0
    folder = _repository_folder(source.repository)
    snapshots = folder.glob(f"snapshots/*/{source.subfolder or ''}")
    files = {file.resolve() for commit in snapshots for file in commit.glob("*") if file.is_file()}
    return sum(file.stat().st_size for file in files)


def _repository_folder(repository: str) -> Path:
    return cache_root() / f"models--{repository.replace('/', '--')}"


def _is_complete(folder: Path, kind: Kind) -> bool:
    """Whether config, tokenizer and every shard of the weights are there."""
    names = {path.name for path in folder.glob("*") if path.is_file()}
    if CONFIG[kind] not in names or not any(name.endswith(".safetensors") for name in names):
        return False
    if kind != "adapter" and not names & {"tokenizer.json", "tokenizer.model"}:
        return False
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    if not indexes and any(SHARD.fullmatch(name) for name in names):
        return False
    try:
        shards = [read_json(folder / name)["weight_map"] for name in indexes]
        return all(set(shard.values()) <= names for shard in shards)
    except (BadInput, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _downloader(repository: str) -> Iterator[Any]:
    """huggingface_hub, set up for a download. Raises BadInput for whatever stops that."""
    library = _library()
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity(logging.CRITICAL)  # what matters is an exception too
    if not sys.stderr.isatty():  # progress bars are for people
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # a warning of a disk that is nearly full says less than the line that follows it
            warnings.simplefilter("ignore", UserWarning)
            yield library
    except Exception as error:  # the library trusts the server, and breaks wherever that lies
        raise BadInput(f"{repository}: {_problem(error, repository)}") from None


def _problem(error: Exception, repository: str) -> str:
    from huggingface_hub import errors, get_token

    hub, root = _library().constants.ENDPOINT, cache_root()
    cause = error
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        cause = error.__cause__
    if isinstance(cause, errors.GatedRepoError):
        account = "the account of HF_TOKEN" if get_token() else "your account"
        token = "" if get_token() else " and set HF_TOKEN to a token of it"
        return f"is gated; accept its terms at {hub}/{repository} with {account}{token}"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"{hub} has no such repository, or a private one; fix its name or set HF_TOKEN"
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return (
            f"is incomplete in {root}, and HF_HUB_OFFLINE is set; "
            "unset it, or set HF_HOME to where the files are"
        )
    if "Consistency check failed" in str(cause):
        return f"a file does not have the size that {hub} states; run the same command again"
    response = getattr(cause, "response", None)
    classes = {each.__name__ for each in type(cause).__mro__}
    if response is not None and classes & STATUS:
        status = response.status_code
        if status in (401, 403):
            fix = "set HF_TOKEN to a valid token that may read it"
            return f"{hub} refuses access ({status}); {fix}"
        return f"{hub} answered {status}; run the same command again later to resume"
    if classes & INTERRUPTED:
        return "the download was interrupted; run the same command again to resume it"
    if classes & UNREACHABLE:
        # the system's own words, out of a message of several lines
        system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(cause))
        reason = system[1] if system else type(cause).__name__
        return f"{hub} does not answer ({reason}); check the network or fix HF_ENDPOINT"
    if isinstance(cause, OSError) and cause.errno:
        return f"{root}: cannot be written ({cause.strerror}); free space there or set HF_HOME"
    return f"{hub}: {first_problem(cause)}; check HF_ENDPOINT and HF_TOKEN"


def _library() -> Any:
    """huggingface_hub, imported at first use. Raises BadInput when it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise BadInput(
            "huggingface_hub is not installed; pip install 'charprobe-lite[hub]'"
        ) from None
    return huggingface_hub
