"""Which changes of files change the identity of a user's own code, and which do not."""

import importlib
import py_compile
import sys
import zipfile
from importlib.metadata import version

import pytest

from shunted_lab.nn.source import module_hash, own_files

FILES = {
    "own_blocks.py": '''"""Blocks."""
import own_helper as helper
from own_names import scale  # a name that is not a module
import torch.nn.functional


def late():
    from own_late import anything
    if False:
        import own_conditional
''',
    "own_helper.py": "import own_deep\n",
    "own_deep.py": "import own_blocks\nDEPTH = 3\n",  # a cycle
    "own_names.py": "scale = 2\n",
    "own_late.py": "anything = 1\n",
    "own_conditional.py": "",
    "own_unrelated.py": "import own_blocks\n",
    "own_package/__init__.py": "from .first import *\n",
    "own_package/first.py": "from . import second\nfrom .inner.fourth import x\nfrom ..beyond import y\n",
    "own_package/second.py": "def late():\n    from .third import x\n",
    "own_package/third.py": "x = 3\n",
    "own_package/inner/__init__.py": "",
    "own_package/inner/fourth.py": "from .. import fifth\nx = 4\n",
    "own_package/fifth.py": "",
    "own_package/sixth.py": "",
    "own_space/part/seventh.py": "import own_space.other.eighth\n",  # namespace packages
    "own_space/other/eighth.py": "",
    "own_all/__init__.py": "__all__ = [name for name in ('ninth',)]\n",
    "own_all/ninth.py": "",
    "own_all/user.py": "from own_all import *\n",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that writes FILES with changes into a folder that can be imported from, and returns the folder."""

    def write(folder="mine", **changes):
        for name, text in (FILES | changes).items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        for place in [place for place in sys.path if place.startswith(str(tmp_path))]:
            sys.path.remove(place)
        monkeypatch.syspath_prepend(tmp_path / folder)
        forget()
        return tmp_path / folder

    yield write
    forget()


def forget():
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def names_of(module):
    return {name.removeprefix("own_") for name in own_files([module])}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("own_blocks", {"blocks", "helper", "deep", "names", "late", "conditional"}),
        ("own_deep", {"blocks", "helper", "deep", "names", "late", "conditional"}),
        ("own_names", {"names"}),
        (
            "own_package.first",
            {"package"}
            | {f"package.{name}" for name in ("first", "second", "third", "inner", "inner.fourth", "fifth")},
        ),
        ("own_space.part.seventh", {"space.part.seventh", "space.other.eighth"}),
        ("own_all.user", {"all", "all.user", "all.ninth"}),
        ("own_nowhere", set()),
        ("own_names.scale", {"names"}),  # an attribute is not a module
    ],
)
def test_a_module_counts_with_all_local_ones_that_it_imports(files, module, expected):
    files()
    assert names_of(module) == expected


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("own_blocks.py", True),
        ("own_helper.py", True),
        ("own_deep.py", True),
        ("own_late.py", True),
        ("own_conditional.py", True),
        ("own_unrelated.py", False),
        ("own_package/sixth.py", False),
        ("notes.txt", False),
    ],
)
def test_any_edit_of_a_file_that_counts_changes_the_hash(files, name, counts):
    files()
    before = module_hash("own_blocks")
    assert len(before) == 16 and before == module_hash("own_blocks")
    files(**{name: FILES.get(name, "") + "# a comment\n"})
    assert (module_hash("own_blocks") != before) == counts


@pytest.mark.parametrize("name", ["__init__.py", "first.py", "second.py", "third.py", "inner/__init__.py", "fifth.py"])
def test_the_packages_of_a_module_and_its_siblings_count(files, name):
    files()
    before = module_hash("own_package.first")
    files(**{f"own_package/{name}": FILES[f"own_package/{name}"] + "\nA = 1\n"})
    assert module_hash("own_package.first") != before


def test_the_name_of_a_module_counts_and_the_place_of_the_folder_does_not(files):
    files()
    before = {name: module_hash(name) for name in ("own_blocks", "own_package.first", "own_space.part.seventh")}
    files("elsewhere/below")
    assert {name: module_hash(name) for name in before} == before
    files(**{"own_copy.py": FILES["own_names.py"]})
    assert module_hash("own_copy") != module_hash("own_names")


def test_line_ends_do_not_count_and_other_bytes_do(files):
    files()
    before = module_hash("own_blocks")
    files(**{name: text.replace("\n", "\r\n") for name, text in FILES.items()})
    assert module_hash("own_blocks") == before
    files(**{name: text.replace("\n", "\r") for name, text in FILES.items()})
    assert module_hash("own_blocks") == before
    files(**{"own_names.py": "scale = 2 \n"})
    assert module_hash("own_blocks") != before


def test_content_that_moves_from_one_file_to_another_changes_the_hash(files):
    files(**{"own_late.py": "a = 1\nb = 2\n", "own_names.py": ""})
    before = module_hash("own_blocks")
    files(**{"own_late.py": "a = 1\n", "own_names.py": "b = 2\n"})
    assert module_hash("own_blocks") != before


@pytest.mark.parametrize("text", ["def (:\n", "x = 1\0\n", "# -*- coding: nothing -*-\n", "import own_helper\n  x\n"])
def test_a_helper_that_cannot_be_parsed_counts_as_text(files, text):
    files(**{"own_late.py": text})
    before = module_hash("own_blocks")
    assert own_files(["own_blocks"])["own_late"] == text.encode()
    files(**{"own_late.py": text + "#\n"})
    assert module_hash("own_blocks") != before


def test_a_source_in_another_encoding_is_parsed(files):
    folder = files(**{"own_late.py": ""})
    (folder / "own_late.py").write_bytes(
        "# -*- coding: latin-1 -*-\nname = 'Zoë'\nimport own_unrelated\n".encode("latin-1")
    )
    assert "unrelated" in names_of("own_blocks")


def test_no_code_is_run(files):
    files(**{name: text + "\nraise RuntimeError\n" for name, text in FILES.items()})
    assert names_of("own_blocks") and names_of("own_package.first") and names_of("own_space.part.seventh")
    assert not [name for name in sys.modules if name.startswith("own_")]


@pytest.mark.parametrize("module", ["own_blocks", "own_space.part.seventh", "own_all.user"])
def test_what_has_been_imported_changes_nothing(files, module):
    files()
    before = module_hash(module)
    importlib.import_module(module)
    assert module_hash(module) == before


@pytest.mark.parametrize(
    "place", ["site-packages", "lib/python3/dist-packages", "mine/.venv/lib/python3.12/site-packages"]
)
def test_installed_modules_do_not_count(files, tmp_path, monkeypatch, place):
    files(**{"own_late.py": "import own_installed.part\nfrom own_installed import *\n"})
    before = module_hash("own_blocks")
    folder = tmp_path / place / "own_installed"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder.parent)
    for value in (1, 2):
        (folder / "__init__.py").write_text(f"A = {value}\n")
        (folder / "part.py").write_text(f"A = {value}\n")
        importlib.invalidate_caches()
        assert module_hash("own_blocks") == before
    assert module_hash("own_installed") == ""  # of no distribution


def test_linked_files_of_an_installed_package_do_not_count(files, tmp_path, monkeypatch):
    folder = files()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "own_linked.py").symlink_to(folder / "own_names.py")  # as uv links to its cache
    (folder / "own_link.py").symlink_to(folder / "own_names.py")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert names_of("own_linked") == set() and names_of("own_link") == {"link"}


@pytest.mark.parametrize("module", ["json", "sys", "zipimport", "torch.nn", "numpy"])
def test_the_standard_library_and_libraries_are_not_a_user_s(module):
    assert own_files([module]) == {}


def test_archives_do_not_count(files, tmp_path, monkeypatch):
    files(**{"own_late.py": "import own_zipped\n"})
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("own_zipped.py", "")
    monkeypatch.syspath_prepend(tmp_path / "archive.zip")
    assert "late" in names_of("own_blocks") and "zipped" not in names_of("own_blocks")


def test_of_an_installed_package_the_version_counts():
    assert module_hash("timm.layers") == f"timm {version('timm')}"
    assert module_hash("json") == module_hash("own_nowhere") == ""


def test_this_package_does_not_count():
    assert module_hash("shunted_lab.nn.attention") == "" and own_files(["shunted_lab.data.earth"]) == {}


def test_compiled_modules_count_by_their_bytes(files):
    folder = files(**{"own_helper.py": "import own_compiled\n"})
    found = []
    for value in (1, 2):
        (folder / "text.py").write_text(f"A = {value}\n")
        py_compile.compile(str(folder / "text.py"), str(folder / "own_compiled.pyc"), doraise=True)
        importlib.invalidate_caches()
        found.append(module_hash("own_blocks"))
    assert "compiled" in names_of("own_blocks") and found[0] != found[1]


def test_modules_in_folders_that_a_file_adds_count_once_it_is_imported(files):
    text = "import sys, pathlib\nsys.path.append(str(pathlib.Path(__file__).parent / 'lib'))\nimport own_added\n"
    files(**{"own_adding.py": text, "lib/own_added.py": ""})
    importlib.import_module("own_adding")
    assert names_of("own_adding") == {"adding", "added"}
    sys.path.remove(next(place for place in sys.path if place.endswith("lib") and "mine" in place))


def test_several_modules_have_one_hash(files):
    files()
    assert module_hash("own_names", "own_late") == module_hash("own_late", "own_names", "torch.nn")
    assert module_hash("own_names", "own_late") != module_hash("own_names")
