"""io: what is read is what was saved, a crash leaves the old data set, and every damage is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Subset

from tests.networks import RESIDUAL, SIREN, assert_same, elements, random_element
from weightaug import Architecture, cat, collate
from weightaug.io import WeightSpaceDataset, append, load, save
from weightaug.io.manifest import digest

METADATA = {"convention": {"init": "siren", "coordinates": "xy"}, "classes": ["a", "b"], "provenance": "made here"}
LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2])
VIEWS = {"view": torch.arange(7, dtype=torch.int32), "psnr": torch.linspace(20, 30, 7, dtype=torch.float64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "set", random_element(SIREN, (7,)), LABELS, columns=VIEWS, metadata=METADATA, shard_size=3)
    return tmp_path / "set"


def shard(folder: Path, number: int = 0) -> Path:
    return sorted(folder.glob("shard-*"))[number]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def write_manifest(folder: Path, content: dict[str, Any], sign: bool) -> None:
    if sign:
        content["sha256"] = digest({k: v for k, v in content.items() if k != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(content))


# -- round trips -------------------------------------------------------------------------------------


@given(element=elements(), size=st.sampled_from([None, 1, 2, 5]), labelled=st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, element: Any, size: int | None, labelled: bool) -> None:
    path = tmp_path_factory.mktemp("io") / "set"
    labels = torch.randn(*element.batch_shape[:1], 2) if labelled else None
    save(path, element, labels, metadata={"omega": 0.1}, shard_size=size)
    got = load(path)
    assert_same(got.element, element)
    assert (got.labels is None) == (labels is None)
    if labels is not None:
        assert torch.equal(got.labels, labels)
    assert got.metadata == {"omega": 0.1}
    assert got.columns == {}
    shutil.rmtree(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_branched_architectures(tmp_path: Path, dtype: torch.dtype) -> None:
    element = random_element(RESIDUAL, (3,)).to(dtype)
    save(tmp_path / "set", element)
    assert_same(load(tmp_path / "set").element, element)


def test_everything_comes_back(folder: Path) -> None:
    got = load(folder)
    assert_same(got.element, random_element(SIREN, (7,)))
    assert torch.equal(got.labels, LABELS)
    assert got.metadata == METADATA
    assert {k: v.dtype for k, v in got.columns.items()} == {"view": torch.int32, "psnr": torch.float64}
    assert all(torch.equal(got.columns[k], VIEWS[k]) for k in VIEWS)
    assert len(list(folder.iterdir())) == 4  # three shards, one manifest, nothing left over


def test_views_and_expanded_tensors_can_be_saved(tmp_path: Path) -> None:
    element = random_element(SIREN).map(lambda t: t.expand(3, *t.shape))
    save(tmp_path / "set", element, LABELS[::2][:3])
    assert_same(load(tmp_path / "set").element, element)
    assert load(tmp_path / "set").labels.tolist() == [3, 4, 5]  # type: ignore[union-attr]


def test_one_tensor_in_two_roles_can_be_saved(tmp_path: Path) -> None:
    save(tmp_path / "set", random_element(SIREN, (7,)), LABELS, columns={"again": LABELS})
    assert torch.equal(load(tmp_path / "set").columns["again"], LABELS)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_files_have_the_mode_that_the_user_wants(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        save(tmp_path / "set", random_element(SIREN, (7,)))
    finally:
        os.umask(mask)
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "set").iterdir()} == {0o640}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve().suffix)
        flush(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append(f"rename {target.suffix}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save(tmp_path / "set", random_element(SIREN, (7,)))
    assert events == ["", ".tmp", "rename .safetensors", "", ".tmp", "rename .json", ""]  # "": a folder


def test_save_replaces_and_cleans_up(folder: Path) -> None:
    (folder / "shard-00009-0123456789abcdef.safetensors").write_bytes(b"")
    save(folder, random_element(RESIDUAL, (2,)), overwrite=True)
    assert_same(load(folder).element, random_element(RESIDUAL, (2,)))
    assert len(list(folder.iterdir())) == 2


def test_append(folder: Path) -> None:
    more = random_element(SIREN, (2,), seed=5)
    append(folder, more, LABELS[:2], columns={k: v[:2] for k, v in VIEWS.items()})
    got = load(folder)
    assert_same(got.element, cat([random_element(SIREN, (7,)), more]))
    assert torch.equal(got.labels, torch.cat([LABELS, LABELS[:2]]))
    assert len(WeightSpaceDataset(folder)) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"element": random_element(Architecture.siren((2, 5, 4, 3)), (7,))}, "another architecture"),
        ({"element": random_element(SIREN, (7,)).to(torch.float32)}, "another tensors"),
        ({"labels": None}, "another tensors"),
        ({"labels": LABELS.float()}, "another tensors"),
        ({"columns": None}, "another tensors"),
        ({"element": random_element(SIREN)}, "append adds batches to batches, got one network"),
    ],
)
def test_append_refuses_other_settings(folder: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"element": random_element(SIREN, (7,)), "labels": LABELS, "columns": VIEWS} | change
    with pytest.raises(ValueError, match=message):
        append(folder, **arguments)
    assert len(load(folder).element) == 7


# -- what save refuses -------------------------------------------------------------------------------


def test_save_refuses_what_it_could_not_give_back(tmp_path: Path) -> None:
    element, path = random_element(SIREN, (7,)), tmp_path / "set"
    with pytest.raises(ValueError, match=r"labels: expected a tensor with 7 rows, one per network, got \(6,\)"):
        save(path, element, LABELS[:6])
    with pytest.raises(ValueError, match=r"column/view: expected numbers, got words"):
        save(path, element, columns={"view": ["a"] * 7})
    with pytest.raises(ValueError, match="metadata: expected what JSON can hold"):
        save(path, element, metadata={"x": object()})
    with pytest.raises(ValueError, match="metadata: expected what JSON can hold"):
        save(path, element, metadata={"x": float("nan")})
    with pytest.raises(ValueError, match=r"metadata: expected string keys and lists.*would come back as"):
        save(path, element, metadata={"size": (2, 3)})
    with pytest.raises(ValueError, match=r"layer0.weight: .* NaN or infinite"):
        save(path, element.map(lambda t: t * torch.nan))
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        save(path, element, shard_size=0)
    assert not (path / "manifest.json").exists()


def test_save_does_not_write_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"expected an empty folder or a weightaug data set, got .*'notes.txt'"):
        save(tmp_path, random_element(SIREN, (7,)))
    with pytest.raises(ValueError, match="expected a folder or nothing, got a file"):
        save(tmp_path / "notes.txt", random_element(SIREN, (7,)))
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


# -- crashes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["save", "append"])
@pytest.mark.parametrize("survived", [0, 1])
def test_a_crash_before_a_rename_leaves_the_old_data_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch, operation: str, survived: int
) -> None:
    before = load(folder)
    renames = 0
    rename = os.replace

    def crash(source: Any, target: Any) -> None:
        nonlocal renames
        assert Path(source).parent == Path(target).parent  # a rename is atomic within one file system only
        assert Path(source).stat().st_size > 0
        if renames == survived:  # 0: the first shard, 1: the manifest
            raise KeyboardInterrupt
        renames += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", crash)
    other = random_element(SIREN, (7,), seed=8)
    replace = {"overwrite": True} if operation == "save" else {}
    with pytest.raises(KeyboardInterrupt):
        (save if operation == "save" else append)(folder, other, LABELS, columns=VIEWS, **replace)
    after = load(folder)
    assert_same(after.element, before.element)
    assert not list(folder.glob(".*")), "temporary files were left"
    monkeypatch.undo()
    save(folder, other, LABELS, overwrite=True)
    assert_same(load(folder).element, other)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks with threads
def test_a_killed_first_save_is_no_data_set_and_can_be_repeated(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        rename = os.replace
        os.replace = lambda a, b: os._exit(9) if b.name == "manifest.json" else rename(a, b)  # type: ignore
        save(tmp_path / "set", random_element(SIREN, (7,)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = sorted(file.suffix for file in (tmp_path / "set").iterdir())
    assert left in ([".safetensors", ".tmp"], ["", ".safetensors", ".tmp"])  # "": the lock, which holds nobody
    with pytest.raises(FileNotFoundError, match=r"manifest.json: expected the manifest of a data set, got no"):
        load(tmp_path / "set")
    save(tmp_path / "set", random_element(SIREN, (7,)))
    assert_same(load(tmp_path / "set").element, random_element(SIREN, (7,)))
    assert sorted(file.suffix for file in (tmp_path / "set").iterdir()) == [".json", ".safetensors"]


# -- damage ------------------------------------------------------------------------------------------


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*expected the manifest"):
        load(tmp_path / "nowhere")
    shard(folder, 1).unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001-.*expected this shard, which manifest.json names"):
        load(folder)


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard(folder: Path, verify: bool) -> None:
    path = shard(folder, 2)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"shard-00002-.*: expected \d+ bytes, got \d+: the file is truncated; take"):
        load(folder, verify=verify)


def test_a_flipped_bit(folder: Path) -> None:
    path = shard(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000-.*: expected the sha256 \w+, got \w+: the file is corrupt"):
        load(folder)


def test_a_shard_that_is_no_safetensors_file(folder: Path) -> None:
    path = shard(folder)
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"shard-00000-.*: expected a safetensors file, got .*corrupt"):
        load(folder, verify=False)


def test_a_shard_of_other_settings(folder: Path, tmp_path: Path) -> None:
    other = {**METADATA, "provenance": "made there"}  # of the same size
    save(tmp_path / "other", random_element(SIREN, (7,)), LABELS, columns=VIEWS, metadata=other, shard_size=3)
    shutil.copy(shard(tmp_path / "other"), shard(folder))
    with pytest.raises(ValueError, match=r"shard-00000-.*: expected the sha256"):
        load(folder)
    with pytest.raises(ValueError, match=r"shard-00000-.*settings.*got one of other settings"):
        load(folder, verify=False)


def test_shards_with_other_tensors(folder: Path) -> None:
    content = manifest(folder)
    path = shard(folder)
    header = {"weightaug": digest(content["settings"])}
    tensors = load_file(path)
    for broken, message in (
        ({k: v for k, v in tensors.items() if k != "labels"}, "expected the tensors .*'labels'.*, got"),
        ({**tensors, "labels": tensors["labels"].int()}, r"labels: expected int64 of shape \(3,\), got int32"),
    ):
        save_file(broken, path, metadata=header)
        content["shards"][0]["bytes"] = path.stat().st_size
        write_manifest(folder, content, sign=True)
        with pytest.raises(ValueError, match=message):
            load(folder, verify=False)


def test_a_changed_or_foreign_manifest(folder: Path) -> None:
    content = manifest(folder)
    content["settings"]["architecture"]["spaces"][1]["activation"]["omega"] = 1.0
    write_manifest(folder, content, sign=False)
    with pytest.raises(ValueError, match=r"manifest.json: expected the checksum .* got .*changed by hand"):
        load(folder)
    write_manifest(folder, {**content, "version": 99}, sign=True)
    with pytest.raises(ValueError, match="expected format version 1, got 99; use the weightaug that wrote it"):
        load(folder)
    write_manifest(folder, {**content, "format": "zarr"}, sign=True)
    with pytest.raises(ValueError, match=r"expected the format 'weightaug.dataset', got 'zarr'"):
        load(folder)
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"expected the format 'weightaug.dataset', got 'list'"):
        load(folder)
    (folder / "manifest.json").write_text('{"format": "weight')
    with pytest.raises(ValueError, match=r"manifest.json: expected JSON, got .*it was cut"):
        load(folder)
    with pytest.raises(ValueError, match="expected JSON"):
        save(folder, random_element(SIREN, (7,)))


# -- the data set ------------------------------------------------------------------------------------


def test_items_and_batches(folder: Path) -> None:
    data, element = WeightSpaceDataset(folder), random_element(SIREN, (7,))
    assert len(data) == 7
    assert data.architecture == SIREN
    assert data.metadata == METADATA
    item, label = data[4]
    assert_same(item, element[4])
    assert label == 5
    assert_same(data[-1][0], element[6])
    rows = [6, 0, 3, 3, -2]
    batch, labels = data.__getitems__(rows)
    assert_same(batch, element[rows])
    assert torch.equal(labels, LABELS[rows])
    assert data.__getitems__([])[0].batch_shape == (0,)
    assert_same(data.element, element)
    assert repr(data) == f"WeightSpaceDataset('{folder}', 7 networks, labels=True)"


@pytest.mark.parametrize("index", [7, -8])
def test_out_of_range(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match=rf"set: index {index} is out of range for 7 networks"):
        WeightSpaceDataset(folder)[index]


@pytest.mark.parametrize("size", [None, 3])
def test_items_are_copies(tmp_path: Path, size: int | None) -> None:
    save(tmp_path / "set", random_element(SIREN, (7,)), shard_size=size)
    data = WeightSpaceDataset(tmp_path / "set")
    data[0].weights[0].zero_()
    data.__getitems__([0, 1]).weights[0].zero_()
    assert_same(data[0], random_element(SIREN, (7,))[0])


def test_unlabelled_items_with_views(tmp_path: Path) -> None:
    element = random_element(SIREN, (4, 3))
    save(tmp_path / "set", element)
    data = WeightSpaceDataset(tmp_path / "set")
    assert_same(data[2], element[2])
    assert_same(data.__getitems__([2, 1]), element[[2, 1]])


def test_one_network(tmp_path: Path) -> None:
    save(tmp_path / "set", random_element(SIREN), torch.tensor(3), columns={"psnr": torch.tensor(30.0)})
    got = load(tmp_path / "set")
    assert_same(got.element, random_element(SIREN))
    assert got.labels == 3
    assert got.columns["psnr"] == 30.0
    assert len(WeightSpaceDataset(tmp_path / "set")) == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks with threads
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(folder: Path, workers: int) -> None:
    data = WeightSpaceDataset(folder)
    batches = list(DataLoader(Subset(data, [5, 3, 1, 0, 6]), batch_size=2, collate_fn=collate, num_workers=workers))
    assert_same(cat([e for e, _ in batches]), random_element(SIREN, (7,))[[5, 3, 1, 0, 6]])
    assert torch.equal(torch.cat([y for _, y in batches]), LABELS[[5, 3, 1, 0, 6]])


def test_pickle_is_the_path_and_notices_another_data_set(folder: Path) -> None:
    content = pickle.dumps(WeightSpaceDataset(folder))
    assert len(content) < 500
    assert_same(pickle.loads(content).element, random_element(SIREN, (7,)))
    save(folder, random_element(SIREN, (7,), seed=1), LABELS, overwrite=True)
    with pytest.raises(ValueError, match="it was written again since it was opened; open it again"):
        pickle.loads(content)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_takes_no_private_memory(tmp_path: Path) -> None:
    arch = Architecture.mlp((256, 256, 256), "relu")
    save(tmp_path / "set", random_element(arch, (64,), dtype=torch.float32))  # 33 MB

    def private() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

    before = private()
    data = WeightSpaceDataset(tmp_path / "set")
    batch = data.__getitems__([3, 1])
    assert batch.batch_shape == (2,)
    assert private() - before < 8e6


# -- several folders ---------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        element, labels = random_element(SIREN, (3 + number,), seed=number), torch.arange(3 + number) + 10 * number
        save(path, element, labels, columns={"view": labels % 2}, metadata={"part": number}, shard_size=2)
    return paths


def test_several_folders_are_one_data_set(folders):
    data = WeightSpaceDataset(*folders)
    whole = cat([load(path).element for path in folders])
    assert [(f.path, f.size, f.metadata) for f in data.folders] == [
        (path, 3 + number, {"part": number}) for number, path in enumerate(folders)
    ]
    assert len(data) == 12
    assert_same(data.element, whole)
    assert data.labels.tolist() == [0, 1, 2, 10, 11, 12, 13, 20, 21, 22, 23, 24]
    order = torch.tensor([11, 3, 2, 3, -1])
    element, labels = data.__getitems__(order)
    assert_same(element, whole[order])
    assert_same(data.networks(order), whole[order])
    assert labels.tolist() == [24, 10, 2, 10, 24]
    assert_same(pickle.loads(pickle.dumps(data)).element, whole)
    assert repr(data) == f"WeightSpaceDataset('{folders[0]}', '{folders[1]}', ..., 12 networks, labels=True)"
    with pytest.raises(ValueError, match=r"/b: expected the metadata of .*/a"):
        data.metadata  # noqa: B018


def test_folders_that_do_not_fit_together_are_named(folders, tmp_path):
    save(tmp_path / "other", random_element(RESIDUAL, (2,)))
    with pytest.raises(ValueError, match=r"/other: expected the architecture of .*/a"):
        WeightSpaceDataset(folders[0], tmp_path / "other")
    save(tmp_path / "bare", random_element(SIREN, (2,)))
    with pytest.raises(ValueError, match=r"/bare: expected the tensors of .*/a"):
        WeightSpaceDataset(folders[0], tmp_path / "bare")


def test_traced_modules_are_stored_with_their_statistics(tmp_path: Path):
    from torch import nn

    from weightaug.adapters import from_modules, to_modules

    def network() -> nn.Module:
        norm = nn.BatchNorm2d(4)
        norm.running_mean.normal_()
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), *head).eval()

    x = torch.randn(2, 1, 8, 8)
    networks = from_modules([network() for _ in range(5)], example_input=x)
    save(tmp_path / "set", networks, torch.arange(5))
    loaded = load(tmp_path / "set").element
    assert loaded.architecture == networks.architecture
    assert all(torch.equal(a, b) for a, b in zip(loaded.tensors(), networks.tensors(), strict=True))
    one, label = WeightSpaceDataset(tmp_path / "set")[3]
    assert label == 3
    module = to_modules(one, like=network())  # the file knows the tensors, not the forward
    assert torch.allclose(module(x), networks(x)[3], atol=1e-6)
