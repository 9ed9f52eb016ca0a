"""Refuses a wheel that holds anything but weightaug, its pytest plugin and its metadata, or misses a part of it."""

import sys
import zipfile
from pathlib import Path

names = zipfile.ZipFile(sys.argv[1]).namelist()
package = {name for name in names if name.startswith("weightaug/") or name == "pytest_weightaug.py"}
foreign = [name for name in names if name not in package and not name.partition("/")[0].endswith(".dist-info")]
root = Path(__file__).parents[1]
expected = {
    str(p.relative_to(root))
    for p in (root / "weightaug").rglob("*")
    if p.suffix in (".py", ".safetensors") or p.name in ("py.typed", "manifest.json")
} | {"pytest_weightaug.py"}
metadata = {name.partition(".dist-info/")[2] for name in names} - {""}
absent = {"METADATA", "entry_points.txt", "licenses/LICENSE"} - metadata
if foreign or absent or package != expected:
    sys.exit(
        f"{sys.argv[1]}: expected the files of weightaug/ alone; foreign: {foreign}; "
        f"missing: {sorted(expected - package) + sorted(absent)}; too many: {sorted(package - expected)}"
    )
print(f"{len(package)} files, all of weightaug")
