"""What a stranger's file or network could do through this package: nothing is unpickled, executed or fetched."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_packaging import PUBLIC

ROOT = Path(__file__).parents[1]

FORBIDDEN_CALLS = {
    *(
        f"{module}.{name}"
        for module in ("pickle", "marshal", "dill", "joblib", "cloudpickle")
        for name in ("load", "loads")
    ),
    *("pickle.Unpickler", "eval", "exec", "compile", "__import__", "shelve.open", "yaml.load", "os.system", "os.popen"),
}
FORBIDDEN_MODULES = {"socket", "ssl", "urllib", "http", "ftplib", "requests", "httpx", "subprocess", "ctypes"}
# A transform that the caller made is turned into bytes or text and back; no file is involved.
ALLOWED = {
    # A program of ours, the same whatever a file holds: of damaged texts, HDF5 may search for ever.
    ("io/hdf5.py", "subprocess"),
    ("testing/laws.py", "pickle.loads"),
    ("testing/laws.py", "eval"),
}


def findings(source: str) -> set[str]:
    """Names of what must not be called or imported, in one file."""
    found: set[str] = set()
    aliases: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname}
            found |= {a.name for a in node.names if a.name.partition(".")[0] in FORBIDDEN_MODULES}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            if (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
                found.add(str(node.module))
        elif isinstance(node, ast.ClassDef):
            found |= {"pickle.Unpickler" for base in node.bases if "Unpickler" in ast.unparse(base)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, _, rest = ast.unparse(node.func).partition(".")
        name = ".".join(filter(None, (aliases.get(head, head), rest)))
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            name in FORBIDDEN_CALLS
            or (name == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle", "False") != "False"
        ):
            found.add(name)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(b'')",
        "from pickle import loads as read\nread(b'')",
        "eval(text)",
        "exec(text)",
        "import torch\ntorch.load(path)",
        "from torch import load\nload(path, weights_only=False)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import urllib.request",
        "from socket import create_connection",
        "import pickle\nclass Mine(pickle.Unpickler): pass",
    ],
)
def test_what_must_not_be_there_would_be_found(source: str):
    assert findings(source)


def test_what_may_be_there_is_not_found():
    fine = "import torch\ntorch.load(p, weights_only=True)\nmodule.eval()\ntorch.compile(f)\nre.compile('')\n"
    assert findings(fine + "import pickle\npickle.dumps(1)\nnp.load(p, allow_pickle=False)") == set()


def test_nothing_in_the_package_unpickles_executes_or_fetches():
    files = [*(ROOT / "weightaug").rglob("*.py"), ROOT / "pytest_weightaug.py"]
    assert len(files) > 100
    found = {(f.relative_to(ROOT / "weightaug").as_posix(), n) for f in files[:-1] for n in findings(f.read_text())}
    assert found | {("", n) for n in findings(files[-1].read_text())} == ALLOWED


def python(code: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


NO_NETWORK = """
import sys
def refuse(event, arguments):
    if event.startswith("socket.") or event in ("urllib.Request", "ftplib.connect", "http.client.connect"):
        raise SystemExit(f"the network was asked for: {event} {arguments}")
"""


def test_the_guard_against_the_network_works():
    with pytest.raises(AssertionError, match=r"the network was asked for: socket\."):
        python(NO_NETWORK + "sys.addaudithook(refuse)\nimport socket\nsocket.create_connection(('127.0.0.1', 9))")


def test_the_package_works_without_a_network(tmp_path: Path):
    """Import, every transform, alignment, files, adapters and laws, where asking for a socket ends the process."""
    work = """
import torch
sys.addaudithook(refuse)
import weightaug as wa
from weightaug import adapters, functional, io, matching
from weightaug.testing import check_everywhere
from weightaug.testing.suite.examples import OF_HEADS, OF_PAIRS, TRANSFORMS, encoders, low_rank_pairs
from weightaug.testing.battery import EXAMPLES
from weightaug.testing.networks import random_element
done = 0
for transforms, networks in ((OF_HEADS, encoders(2)), (OF_PAIRS, low_rank_pairs(2))):
    done += sum(transform(networks) is not None for transform in transforms)
networks = random_element(EXAMPLES[0], (4,))
done += sum(transform(networks) is not None for transform in TRANSFORMS if transform is not None)
check_everywhere(wa.SirenNegation(), graph=False)
matching.match(networks, random_element(EXAMPLES[0], (4,), seed=1))
wa.act(networks, matching.canonicalize(networks))
io.save(sys.argv[1], networks, labels=torch.arange(4))
io.load(sys.argv[1]); len(io.WeightSpaceDataset(sys.argv[1]))
adapters.from_state_dicts(adapters.to_state_dicts(networks), networks.architecture)
len(wa.datasets.digits())
print(done)
"""
    # SIREN examples take all but scales of ReLU networks.
    fits = work.replace("if transform is not None", "if not isinstance(transform, wa.ReLUScale)")
    assert int(python(NO_NETWORK + fits, str(tmp_path / "store"))[0]) > 30


OPTIONAL = (
    *("numba", "hypothesis", "matplotlib", "h5py", "transformers", "peft", "tyro", "ray", "sklearn", "skimage"),
    *("pytest", "_pytest", "tqdm", "igl", "pandas", "PIL", "torch_linear_assignment"),
)


def test_no_module_loads_an_optional_package_by_being_imported():
    """Neither `import weightaug` nor any public module does, what the installed torch itself loads aside."""
    code = f"""
import importlib, sys, torch, safetensors.torch, scipy.optimize
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({{m.partition('.')[0] for m in set(sys.modules) - before}} & set({OPTIONAL!r})))
"""
    assert python(code, *PUBLIC) == []
    # The same question with a package that does load one has the other answer.
    assert python(code, *PUBLIC, "pytest") == ["_pytest", "pytest"]


def test_the_workflow_looks_for_known_vulnerabilities():
    assert "pip-audit -r constraints.txt" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
