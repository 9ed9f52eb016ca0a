"""io beside others: readers, writers, killed writers, full disks, and whatever mode or folder the caller is in."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

import weightaug as wa
from tests.networks import SIREN, assert_same, random_element
from weightaug.io import WeightSpaceDataset, append, files, load, save, shards
from weightaug.io.manifest import digest, read_manifest, write_manifest

ROOT = Path(__file__).parents[1]
SETUP = """
import sys, torch
from tests.networks import SIREN, random_element
from weightaug.io import append, load, save
path = sys.argv[1]
print("ready", flush=True); sys.stdin.readline()
"""


@contextmanager
def process(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported everything and waits for `go`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SETUP + code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        try:
            yield started
        finally:
            started.kill()


def go(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


def finish(started: subprocess.Popen[str]) -> str:
    out, errors = started.communicate(timeout=100)
    assert started.returncode == 0, errors
    return out.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "set", random_element(SIREN, (7,)), torch.arange(7), shard_size=3)
    return tmp_path / "set"


# -- two at once -------------------------------------------------------------------------------------


def test_a_reader_beside_a_writer_sees_the_old_or_the_new(folder: Path) -> None:
    code = """for i in range(30):
        save(path, random_element(SIREN, (7,), seed=i % 2), torch.arange(7), shard_size=2, overwrite=True)"""
    known = [random_element(SIREN, (7,), seed=i).flatten() for i in range(2)]
    reads = 0
    with process(code, folder) as writer:
        go(writer)
        while writer.poll() is None or not reads:
            got = load(folder).element.flatten()
            assert any(torch.equal(got, whole) for whole in known)
            reads += 1
        finish(writer)


def test_appending_writers_lose_nothing(folder: Path) -> None:
    code = "for i in range(5): append(path, random_element(SIREN, (2,)), torch.full((2,), {tag} + i))"
    with process(code.format(tag=100), folder) as one, process(code.format(tag=200), folder) as two:
        go(one)
        go(two)
        finish(one)
        finish(two)
    labels = load(folder).labels
    assert labels is not None
    assert sorted(labels.tolist()) == sorted([*range(7), *(t + i for t in (100, 200) for i in range(5) for _ in "ab")])


def test_appending_threads_lose_nothing(folder: Path) -> None:
    def work() -> None:
        for _ in range(4):
            append(folder, random_element(SIREN, (1,)), torch.tensor([9]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(WeightSpaceDataset(folder)) == 7 + 12
    assert not list(folder.glob(".*"))


def test_a_writer_that_ignores_the_lock_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = shards.write_shard

    def beside(*arguments: Any) -> Any:
        manifest = read_manifest(folder)
        write_manifest(folder, manifest.settings, manifest.shards[:1])
        return write(*arguments)

    monkeypatch.setattr("weightaug.io.writing.write_shard", beside)
    with pytest.raises(OSError, match=r"manifest.json: another writer replaced the data set meanwhile; append again"):
        append(folder, random_element(SIREN, (2,)), torch.arange(2))
    assert len(WeightSpaceDataset(folder)) == 3  # what the other one has written


@pytest.mark.skipif(os.name != "posix", reason="kills")
def test_what_killed_writers_left_is_cleared_but_not_what_living_ones_write(folder: Path) -> None:
    code = "import os; os.replace = lambda *a: os._exit(9); append(path, random_element(SIREN, (2,)), torch.arange(2))"
    with process(code, folder) as dies:
        go(dies)
        assert dies.wait(100) == 9
    assert len(list(folder.glob(".*.tmp"))) == 1
    (folder / ".tmp8AkeuT").write_bytes(b"of safetensors, killed while it wrote")
    assert len(load(folder).element) == 7
    append(folder, random_element(SIREN, (2,)), torch.arange(2))
    assert not list(folder.glob(".*"))
    with files.locked(folder) as alone:  # a living one
        assert alone
        (folder / ".shard-00009.1.tmp").write_bytes(b"mine")
        other = threading.Thread(target=append, args=(folder, random_element(SIREN, (2,)), torch.arange(2)))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert (folder / ".shard-00009.1.tmp").exists()
    other.join()
    assert len(load(folder).element) == 11
    assert not list(folder.glob(".*"))


def test_shards_whose_manifest_was_lost_are_not_removed(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "elsewhere.json")
    left = sorted(file.name for file in folder.iterdir())
    with pytest.raises(
        ValueError, match=r"got shards without manifest.json, such as 'shard-00000-.*put manifest.json back"
    ):
        save(folder, random_element(SIREN, (2,)))
    assert sorted(file.name for file in folder.iterdir()) == left
    (folder.parent / "elsewhere.json").rename(folder / "manifest.json")
    assert len(load(folder).element) == 7
    (folder / "manifest.json").unlink()
    save(folder, random_element(SIREN, (2,)), overwrite=True)
    assert len(load(folder).element) == 2
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_a_first_save_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path, monkeypatch, error) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("weightaug.io.writing.write_manifest", fails)
        with pytest.raises(type(error)):
            save(tmp_path / "set", random_element(SIREN, (7,)), shard_size=3)
    assert not list((tmp_path / "set").iterdir())
    save(tmp_path / "set", random_element(SIREN, (7,)), shard_size=3)
    assert len(load(tmp_path / "set").element) == 7


def test_a_lock_that_never_comes_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    with files.locked(folder), pytest.raises(TimeoutError, match=r"set/.lock: another process has been writing"):
        append(folder, random_element(SIREN, (2,)), torch.arange(2))


def test_a_file_system_without_locks_is_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files, "_system_lock", lambda: (none, none))
    with pytest.warns(RuntimeWarning, match="this file system has no locks"):
        append(folder, random_element(SIREN, (2,)), torch.arange(2))
    assert len(load(folder).element) == 9


# -- disks -------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="limits of processes")
def test_a_full_disk_is_an_oserror_and_loses_nothing(folder: Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for call in (save, append):
    try: call(path, random_element(SIREN, (300,)), torch.arange(300))
    except OSError as error: print(error.errno, error.filename)
"""
    with process(code, folder) as limited:
        go(limited)
        lines = finish(limited).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("27 ") and str(folder) in line for line in lines)
    assert len(load(folder).element) == 7
    assert not list(folder.glob(".*"))


def test_a_folder_that_cannot_be_written_is_an_oserror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", refuse)  # root, who may run this, can write anywhere
    for call in (save, append):
        with pytest.raises(PermissionError, match=r"set/"):
            call(folder, random_element(SIREN, (7,)), torch.arange(7))


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    theirs = tmp_path / "shard-00001-of-00002.safetensors"
    theirs.write_bytes(b"a model")
    with pytest.raises(ValueError, match=r"got other files, such as 'shard-00001-of-00002\.safetensors'"):
        save(tmp_path, random_element(SIREN, (2,)))
    assert theirs.read_bytes() == b"a model"
    with pytest.raises(TypeError, match="overwrite: expected True or False"):
        save(tmp_path / "set", random_element(SIREN, (2,)), overwrite="no")  # type: ignore[arg-type]


def test_another_data_set_is_replaced_where_that_is_said(folder: Path) -> None:
    before = load(folder).element
    files = sorted(os.listdir(folder))
    others = (random_element(SIREN, (2,)), before.map(lambda t: t + 1))  # of another size, and of other values
    for other in others:
        for labels in (None, torch.arange(len(other))):
            with pytest.raises(FileExistsError, match=r"there is another data set already; append .* overwrite=True"):
                save(folder, other, labels)
    assert sorted(os.listdir(folder)) == files
    assert all(torch.equal(a, b) for a, b in zip(load(folder).element.tensors(), before.tensors(), strict=True))
    save(folder, others[0], overwrite=True)
    save(folder, others[0])  # the same again
    assert len(load(folder).element) == 2


# -- indices -----------------------------------------------------------------------------------------

INDICES = [
    slice(1, 6, 2), slice(None, None, -1), [5, 0, -1], [], np.array([3, 3]), np.uint8(2), torch.tensor([6, 1]), (4, 2),
    torch.arange(7) > 3, [True, False] * 3 + [True], np.arange(7) == 2, torch.tensor(3), -7,
]  # fmt: skip


@pytest.mark.parametrize("shard_size", [None, 2])
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_every_kind_of_index(tmp_path: Path, index: Any, shard_size: int | None) -> None:
    element = random_element(SIREN, (7,))
    save(tmp_path / "set", element, torch.arange(7), shard_size=shard_size)
    data = WeightSpaceDataset(tmp_path / "set")
    where = list(index) if isinstance(index, (tuple, list)) else index
    expected = np.arange(7)[where if not isinstance(where, list) or where else slice(0)]
    got, labels = data[index]
    assert labels.tolist() == expected.tolist()
    assert_same(got, element[torch.as_tensor(np.array(expected))])
    assert_same(data.networks(index), got)


@pytest.mark.parametrize("index", [1.7, [1.7], "1", None, [None], 7, [-8], [True] * 6, [[1, 2]], {1}], ids=repr)
def test_what_is_no_index_is_refused(folder: Path, index: Any) -> None:
    data = WeightSpaceDataset(folder)
    for call in (data.__getitem__, data.__getitems__, data.networks):
        with pytest.raises(IndexError, match=r"/set: "):
            call(index)


@pytest.mark.parametrize("loader", ["plain", "collate", "batch sampler", "one by one"])
def test_every_data_loader_delivers_everything(folder: Path, loader: str) -> None:
    data = WeightSpaceDataset(folder)
    settings: dict[str, Any] = {
        "plain": {"batch_size": 3},
        "collate": {"batch_size": 3, "collate_fn": wa.collate},
        "batch sampler": {"batch_size": None, "sampler": BatchSampler(SequentialSampler(data), 3, False)},
        "one by one": {"batch_size": None},
    }[loader]
    batches = list(DataLoader(data, **settings))
    join = wa.stack if loader == "one by one" else wa.cat
    assert_same(join([e for e, _ in batches]), random_element(SIREN, (7,)))
    assert torch.cat([y.reshape(-1) for _, y in batches]).tolist() == [*range(7)]


# -- tensors -----------------------------------------------------------------------------------------

DTYPES = sorted({d for d in vars(torch).values() if isinstance(d, torch.dtype)}, key=str)


@pytest.mark.filterwarnings("ignore")  # of old dtypes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_or_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    bits = torch.arange(4 * 32, dtype=torch.uint8).reshape(4, 32) % 2
    try:
        column = bits.view(dtype)
    except (RuntimeError, NotImplementedError):
        pytest.skip("torch makes no tensors of it")
    try:
        save(tmp_path / "set", random_element(SIREN, (4,)), columns={"c": column}, shard_size=3)
    except ValueError as error:
        assert "column/c: the installed safetensors has no" in str(error)  # noqa: PT017
        assert dtype not in (torch.uint64, torch.float8_e4m3fnuz, torch.complex64)
        assert not (tmp_path / "set").exists()
        return
    data = WeightSpaceDataset(tmp_path / "set")
    assert data.columns["c"].dtype == dtype
    assert torch.equal(data.columns["c"].contiguous().view(torch.uint8), bits)
    assert torch.equal(data._gather(torch.tensor([3, 0]), ["column/c"])["column/c"].view(torch.uint8), bits[[3, 0]])


def test_lazy_conjugates_are_saved_as_values(tmp_path: Path) -> None:
    column = torch.complex(torch.randn(4), torch.randn(4)).conj()
    save(tmp_path / "set", random_element(SIREN, (4,)), columns={"c": column, "n": column.imag})
    got = load(tmp_path / "set").columns
    assert torch.equal(got["c"], column.resolve_conj())
    assert torch.equal(got["n"], column.imag.resolve_neg())


@pytest.mark.parametrize(
    "labels",
    [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), np.array([3, 2, 1])[::-1], [torch.tensor(i) for i in (1, 2, 3)]],
)
def test_labels_of_any_container(tmp_path: Path, labels: Any) -> None:
    save(tmp_path / "set", random_element(SIREN, (3,)), labels, columns={"psnr": [20.5, 21.0, 22.0]})
    got = load(tmp_path / "set")
    assert got.labels.dtype == torch.int64
    assert got.labels.tolist() == [1, 2, 3]
    assert got.columns["psnr"].dtype == torch.float32


def test_a_number_is_the_label_of_one_network(tmp_path: Path) -> None:
    save(tmp_path / "set", random_element(SIREN), 3, columns={"psnr": 20.5})
    assert load(tmp_path / "set").labels.tolist() == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (3, r"labels: expected a tensor with 3 rows, one per network, got \(\)"),
        (["cat", "dog", "cow"], "labels: expected numbers, got words such as 'cat'; number the classes"),
        ([[1], [2, 3], [4]], "labels: expected a tensor, an array or numbers"),
        (torch.eye(3).to_sparse(), r"labels: .*sparse_coo; make a dense one"),
        (torch.zeros(3, device="meta"), "labels: .*meta"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "set", random_element(SIREN, (3,)), labels)
    assert not (tmp_path / "set").exists()


# -- modes and folders -------------------------------------------------------------------------------


def test_no_mode_changes_what_is_saved_or_read(tmp_path: Path) -> None:
    element = random_element(SIREN, (5,), dtype=torch.float32)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            save(tmp_path / "set", element, [0.5] * 5, shard_size=2)
            data = WeightSpaceDataset(tmp_path / "set")
            batch, labels = data[[4, 0]]
            single = data[1][0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(batch, element[[4, 0]])
    assert_same(single, element[1])
    assert labels.dtype == torch.float32
    assert labels.device.type == "cpu"
    assert not any(t.is_inference() for t in data._shards[0]._tensors.values())
    data[0][0].weights[0].requires_grad_().sum().backward()


def test_a_relative_path_survives_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    data = WeightSpaceDataset("set")
    monkeypatch.chdir("/")
    assert_same(pickle.loads(pickle.dumps(data)).element, data.element)


def test_a_transform_is_applied_to_items_and_batches(folder: Path) -> None:
    data = pickle.loads(pickle.dumps(WeightSpaceDataset(folder, transform=wa.Permute())))
    torch.manual_seed(0)
    element, labels = data[[1, 2, 3]]
    torch.manual_seed(0)
    assert_same(element, wa.Permute()(random_element(SIREN, (7,))[[1, 2, 3]]))
    assert labels.tolist() == [1, 2, 3]
    assert data[4][0].batch_shape == ()
    assert_same(data.networks([1]), random_element(SIREN, (7,))[[1]])
    with pytest.raises(TypeError, match=r"transform: expected a weightaug.Transform, got <class"):
        WeightSpaceDataset(folder, transform=wa.Permute)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="relu"):
        WeightSpaceDataset(folder, transform=wa.ReLUScale())


# -- manifests with a right checksum and a wrong content ---------------------------------------------


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("shards",), None, "shards: expected a list"),
        (("shards",), [], "shards: expected at least one file"),
        (("shards", 0), "x", r"shards\[0\]: expected an object"),
        (("shards", 0, "file"), "../../etc/passwd", "expected a file such as shard-00000"),
        (("shards", 0, "file"), "/etc/passwd", "expected a file such as shard-00000"),
        (("shards", 0, "count"), -3, "count: expected a number from 0 on"),
        (("shards", 0, "bytes"), "many", "bytes: expected a number from 0 on"),
        (("settings",), 7, "settings: expected an object"),
        (("settings", "architecture"), {}, "architecture"),
        (("settings", "architecture", "spaces"), [], "space"),
        (("settings", "architecture", "layers", 0, "reads"), "nowhere", "nowhere"),
        (("settings", "tensors"), {}, "expected the parameters"),
        (("settings", "tensors", "labels", "shape"), [-1], "shape: expected a number from 0 on"),
        (("settings", "tensors", "labels", "dtype"), 3, "expected the name of a dtype"),
        (("settings", "tensors", "parameter/layer0.weight", "shape"), [5], "do not fit the architecture"),
        (("settings", "tensors", "parameter/layer0.weight", "dtype"), "__loader__", "do not fit the architecture"),
        (("settings", "single"), "yes", "single: expected true"),
        (("settings", "metadata"), [], "metadata: expected an object"),
    ],
)
def test_manifests_made_to_harm(folder: Path, where: tuple[Any, ...], value: Any, message: str) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    content["sha256"] = digest({k: v for k, v in content.items() if k != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(content))
    for call in (load, lambda path: append(path, random_element(SIREN, (2,)), torch.arange(2))):
        with pytest.raises(ValueError, match=rf"manifest.json: .*{message}"):
            call(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[" * 100_000, b"", b"null", b'{"format": 1e999}'], ids=len)
def test_manifests_that_are_no_json(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest.json: expected"):
        load(folder)
