"""A checkpoint is found where the command says: on disk, on a hub through its own client, or made at random."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export import hubs, sources
from export.checkpoint import Checkpoint
from export.errors import SpecError, UnknownNameError
from export.hubs import (
    AccessDeniedError,
    CacheDiskError,
    HubAccess,
    NoNetworkError,
    PartialDownloadError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    disk_error,
)
from export.random_checkpoint import MARK
from export.sources import (
    MODELS,
    ModelEntry,
    ModelEntryError,
    ResolvedCheckpoint,
    check_same_model,
    model_names,
    read_model_entry,
    resolve,
    source_names,
)
from tests.hub_server import Repository, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUBS = ("huggingface", "modelscope")
LARGE = 24_000_000  # more than the ten megabytes that huggingface_hub writes at a time
UNREACHABLE = "http://127.0.0.1:9"  # the discard port of this machine: nobody listens


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients wait longer before each new try; here nothing changes by waiting."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr("modelscope_hub._download_control._DownloadControl.sleep", lambda _self, _seconds: None)


@pytest.fixture(params=HUBS)
def hub(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def repository(hub: str, fixture_checkpoint: Callable[[str], Path]) -> Iterator[Repository]:
    files = {file.name: file.read_bytes() for file in fixture_checkpoint("like_4b").iterdir()}
    extra = {"pytorch_model.bin": b"never fetched", "modeling.py": b"never fetched"}
    revision = COMMIT if hub == "huggingface" else "master"
    with serving(Repository(repository_id="Qwen/Fixture", revision=revision, files=files | extra)) as served:
        yield served


@pytest.fixture
def access(repository: Repository, tmp_path: Path) -> HubAccess:
    return HubAccess(endpoint=repository.endpoint, cache_dir=tmp_path / "hub")


def entry(**changes: str) -> ModelEntry:
    ids = {"name": "fixture", "hub_id": "Qwen/Fixture", "modelscope_id": "Qwen/Fixture", "revision": COMMIT}
    return ModelEntry(**(ids | changes))  # type: ignore[arg-type]


def test_a_hub_checkpoint_arrives_whole_and_is_recorded(hub: str, repository: Repository, access: HubAccess) -> None:
    found = resolve(entry(), source=hub, access=access)
    checkpoint = Checkpoint.open(found.path)
    assert all(file.read_bytes() == repository.files[file.name] for file in checkpoint.files())
    assert found == ResolvedCheckpoint(
        path=found.path, hub_id="Qwen/Fixture", revision=repository.revision, source=hub, weights="trained"
    )


def test_neither_pickle_nor_code_is_fetched(hub: str, repository: Repository, access: HubAccess) -> None:
    found = resolve(entry(), source=hub, access=access)
    assert not repository.downloads("pytorch_model.bin")
    assert not repository.downloads("modeling.py")
    assert sorted(file.name for file in found.path.iterdir() if not file.name.startswith(".")) == sorted(
        set(repository.files) - {"pytorch_model.bin", "modeling.py"}
    )


def test_a_cached_checkpoint_needs_no_network(hub: str, repository: Repository, access: HubAccess) -> None:
    first = resolve(entry(), source=hub, access=access)
    asked = len(repository.requests)
    offline = HubAccess(endpoint=UNREACHABLE, cache_dir=access.cache_dir)
    assert resolve(entry(), source=hub, access=offline) == first
    assert len(repository.requests) == asked


def test_a_cut_transfer_goes_on_where_it_stopped(hub: str, repository: Repository, access: HubAccess) -> None:
    repository.files["extra.safetensors"] = bytes(LARGE)
    repository.cut["extra.safetensors"] = [15_000_000]
    found = resolve(entry(), source=hub, access=access)
    assert (found.path / "extra.safetensors").stat().st_size == LARGE
    first, second = repository.downloads("extra.safetensors")
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").split("-")[0]) >= 10_000_000


def test_a_transfer_that_keeps_breaking_is_named_and_resumed_later(
    hub: str, repository: Repository, access: HubAccess
) -> None:
    shard = "model-00002-of-00002.safetensors"
    repository.cut[shard] = [0] * 50
    with pytest.raises(PartialDownloadError, match=rf"{hub}: Qwen/Fixture: the transfer from .* run again to resume"):
        resolve(entry(), source=hub, access=access)
    repository.cut.clear()
    first_shard = len(repository.downloads("model-00001-of-00002.safetensors"))
    Checkpoint.open(resolve(entry(), source=hub, access=access).path)
    assert len(repository.downloads("model-00001-of-00002.safetensors")) == first_shard


def test_a_snapshot_that_lost_a_shard_is_completed(hub: str, repository: Repository, access: HubAccess) -> None:
    path = resolve(entry(), source=hub, access=access).path
    shard = path / "model-00001-of-00002.safetensors"
    shard.resolve().unlink()
    shard.unlink(missing_ok=True)
    Checkpoint.open(resolve(entry(), source=hub, access=access).path)


def test_a_part_in_the_cache_and_no_network_says_so(hub: str, repository: Repository, access: HubAccess) -> None:
    path = resolve(entry(), source=hub, access=access).path
    (path / "model-00001-of-00002.safetensors").unlink()
    offline = HubAccess(endpoint=UNREACHABLE, cache_dir=access.cache_dir)
    with pytest.raises((PartialDownloadError, NoNetworkError), match=rf"{hub}: .*(resume|connect)"):
        resolve(entry(), source=hub, access=offline)


def test_no_network_and_no_cache_says_what_else_can_be_done(hub: str, tmp_path: Path) -> None:
    offline = HubAccess(endpoint=UNREACHABLE, cache_dir=tmp_path)
    with pytest.raises(NoNetworkError, match=f"{hub}: cannot reach {UNREACHABLE} for Qwen/Fixture .* --checkpoint"):
        resolve(entry(), source=hub, access=offline)


def test_an_unknown_repository_is_named(hub: str, access: HubAccess) -> None:
    with pytest.raises(RepositoryNotFoundError, match=rf"{hub}: Qwen/None: no such repository .* check the name"):
        resolve(entry(hub_id="Qwen/None", modelscope_id="Qwen/None"), source=hub, access=access)


@pytest.mark.parametrize("hub", ["huggingface"], indirect=True)
def test_an_unknown_revision_is_named(hub: str, access: HubAccess) -> None:
    with pytest.raises(RevisionNotFoundError, match=f"no revision '{'f' * 40}' on .* export/models"):
        resolve(entry(revision="f" * 40), source=hub, access=access)


def test_a_restricted_repository_says_how_to_log_in(hub: str, repository: Repository, access: HubAccess) -> None:
    repository.private = True
    with pytest.raises(AccessDeniedError, match=rf"{hub}: Qwen/Fixture: access is restricted.* login"):
        resolve(entry(), source=hub, access=access)


def test_a_repository_that_is_no_checkpoint_is_named(hub: str, repository: Repository, access: HubAccess) -> None:
    del repository.files["tokenizer.json"]
    with pytest.raises(PartialDownloadError, match="lacks tokenizer.json after the download"):
        resolve(entry(), source=hub, access=access)


def test_a_cache_that_cannot_be_written_is_named(hub: str, repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    access = HubAccess(endpoint=repository.endpoint, cache_dir=tmp_path / "file")
    with pytest.raises(CacheDiskError, match=rf"{hub}: Qwen/Fixture: .*cannot be written \((Not a dir|File exists)"):
        resolve(entry(), source=hub, access=access)


def test_a_full_disk_says_that_finished_files_are_kept() -> None:
    pinned = hubs.Repository(hub="huggingface", repository_id="Qwen/Fixture", revision=COMMIT)
    with pytest.raises(OSError) as full, Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")
    assert str(disk_error(pinned, full.value)).endswith(
        "disk full; free some space and run again, finished files are kept"
    )


def test_a_hub_may_serve_random_weights_but_not_hide_it(hub: str, repository: Repository, access: HubAccess) -> None:
    marked = json.loads(repository.files["config.json"]) | {MARK: {"recipe": 1}}
    repository.files["config.json"] = json.dumps(marked).encode()
    assert resolve(entry(), source=hub, access=access).weights == "random"


def test_a_local_directory_is_taken_as_it_is(fixture_checkpoint: Callable[[str], Path]) -> None:
    path = fixture_checkpoint("like_2b")
    found = resolve(entry(), str(path))
    assert found == ResolvedCheckpoint(path=path, hub_id=None, revision=None, source="local", weights="trained")


def test_the_tiny_model_needs_neither_network_nor_arguments() -> None:
    found = resolve(read_model_entry("tiny"))
    assert found.path.samefile(MODELS / "tiny")
    assert (found.source, found.weights) == ("local", "trained")


def test_random_weights_are_made_once_and_marked() -> None:
    tiny = read_model_entry("tiny")
    found = resolve(tiny, "random")
    assert (found.source, found.weights) == ("random", "random")
    assert (found.path / "tokenizer.json").read_bytes() == (MODELS / "tiny" / "tokenizer.json").read_bytes()
    made = (found.path / "model.safetensors").stat().st_mtime_ns
    assert resolve(tiny, "random") == found
    assert (found.path / "model.safetensors").stat().st_mtime_ns == made
    assert resolve(tiny, str(found.path)).weights == "random"  # the mark travels with the directory


def test_every_file_of_the_catalog_can_be_read() -> None:
    for name in model_names():
        assert read_model_entry(name).name == name


def test_a_model_goes_by_its_hub_id_too() -> None:
    assert read_model_entry("Qwen/Qwen3.5-0.8B") == read_model_entry("qwen3.5-0.8b")


@pytest.mark.parametrize("name", ["qwen3.5-7b", "Qwen/Qwen2-7B", "../tiny"])
def test_an_unknown_model_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown model '{name}'; known: qwen3.5-0.8b, .*, tiny"):
        read_model_entry(name)


def test_an_unknown_source_lists_the_known_ones() -> None:
    assert source_names() == ["huggingface", "modelscope"]
    with pytest.raises(UnknownNameError, match="unknown source 'ftp'; known: huggingface, modelscope"):
        resolve(entry(), source="ftp")


def test_a_model_dropped_into_the_catalog_is_found(tmp_path: Path) -> None:
    shutil.copy(MODELS / "qwen3.5-0.8b.json", tmp_path / "mine.json")
    assert model_names(tmp_path) == ["mine"]
    assert read_model_entry("mine", tmp_path).hub_id == "Qwen/Qwen3.5-0.8B"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "main"}, "revision is 'main'; expected 40 hexadecimal digits"),
        ({"hub_id": "no-owner"}, "hub_id is 'no-owner'; expected 'owner/name'"),
        ({"config": None}, "config is None; expected a copy of the model's config.json"),
        ({"hubid": "x"}, r"unknown fields \['hubid'\]; known: config, hub_id"),
        ({"image_grids": [[8]]}, r"image_grids holds \[8\]; expected rows and columns of tokens"),
    ],
)
def test_a_malformed_catalog_file_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    raw = json.loads((MODELS / "qwen3.5-0.8b.json").read_text()) | change
    (tmp_path / "bad.json").write_text(json.dumps(raw))
    with pytest.raises(ModelEntryError, match=f"bad.json: {message}"):
        read_model_entry("bad", tmp_path)


def test_a_catalog_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ModelEntryError, match="bad.json: not valid JSON"):
        read_model_entry("bad", tmp_path)


def test_a_model_without_an_id_cannot_be_downloaded() -> None:
    with pytest.raises(ModelEntryError, match="model 'mine' has no id on huggingface; use --checkpoint PATH"):
        resolve(ModelEntry(name="mine"))


def test_a_checkpoint_of_another_model_than_named_is_refused(fixture_checkpoint: Callable[[str], Path]) -> None:
    found = resolve(read_model_entry("tiny"), str(fixture_checkpoint("like_2b")))
    with pytest.raises(
        SpecError, match=r"--model qwen3.5-0.8b has hidden_size 1024, --checkpoint .* has 64; leave out"
    ):
        check_same_model(read_model_entry("qwen3.5-0.8b"), found)
    check_same_model(read_model_entry("tiny"), sources.resolve(read_model_entry("tiny")))
