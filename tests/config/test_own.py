"""Functions of the user's own: found, digested and called, or refused in one line."""

import os
import sys
from dataclasses import asdict
from functools import cache, partial
from hashlib import sha256
from importlib import metadata
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import yaml
from refusals import refusal

from bat.config import Attack, Config, Data, Method, Model, OwnModel, as_yaml, load, own_function, parse
from bat.config.own import code_digest

BASE = yaml.safe_load(as_yaml(load(str(Path(__file__).parents[2] / "config/config.yaml"))))


def test_a_digest_is_of_the_code_alone_and_nothing_is_imported(module, tmp_path):
    name = module("raise SystemExit('imported')\ndef part(): pass\n")
    first = code_digest(f"{name}:part")
    (tmp_path / "deep").mkdir()
    assert code_digest(f"{name}:part") == first
    assert name not in sys.modules
    path = tmp_path / f"{name}.py"
    path.write_text(path.read_text() + "# more\n")
    assert code_digest(f"{name}:part") != first


def test_a_module_is_not_run_to_look_for_another_in_it(module, monkeypatch):
    name = module("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(ValueError, match=f"^no module {name}.inner, "):
        code_digest(f"{name}.inner:part")


def test_a_digest_of_a_module_in_a_package_is_of_the_whole_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "users_package" / "inner"
    package.mkdir(parents=True)
    (package / "parts.py").write_text("def part(): pass\n")
    first = code_digest("users_package.inner.parts:part")
    (package.parent / "helper.py").write_text("A = 1\n")
    second = code_digest("users_package.inner.parts:part")
    (package.parent / "notes.txt").write_text("no code")
    assert first != second == code_digest("users_package.inner.parts:part")
    # nor does a digest change with the version of this package: all that was computed by it would be computed again
    contents = {"users_package/helper.py": b"A = 1\n", "users_package/inner/parts.py": b"def part(): pass\n"}
    told = b"".join(f"{name} ".encode() + sha256(content).digest() for name, content in contents.items())
    assert second == sha256(told).hexdigest()
    assert code_digest("users_package:part") == second
    alone = b"part = lambda: 3\n"
    (tmp_path / "users_parts_alone.py").write_bytes(alone)
    told += b"users_parts_alone.py " + sha256(alone).digest()
    assert code_digest("users_package.inner.parts:part", "users_parts_alone:part") == sha256(told).hexdigest()


def test_a_package_may_have_a_file_whose_name_is_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_odd_package").mkdir()
    (tmp_path / "users_odd_package" / os.fsdecode(b"\xff.py")).write_bytes(b"A = 1\n")
    told = b"users_odd_package/\xff.py " + sha256(b"A = 1\n").digest()
    assert code_digest("users_odd_package:part") == sha256(told).hexdigest()


def test_a_module_that_python_finds_otherwise_is_found(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.txt").write_text("def part(): pass\n")
    (tmp_path / "elsewhere.py").write_text("def part(): pass\n")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            wanted = {"users_elsewhere": "elsewhere.py", "users_text": "elsewhere.txt"}.get(name)
            return spec_from_file_location(name, tmp_path / wanted, loader=object()) if wanted else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    told = b"elsewhere.py " + sha256(b"def part(): pass\n").digest()
    assert code_digest("users_elsewhere:part") == sha256(told).hexdigest()
    # what is no Python text is not read as such
    assert code_digest("users_text:none")


def test_a_digest_of_an_installed_module_is_of_its_file_and_the_versions_of_its_packages(monkeypatch):
    versions = {"one": "1.2", "two": "3"}
    monkeypatch.setattr("importlib.metadata.version", versions.get)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"yaml": ["two", "one", "two"]})
    told = b"1.2 3" + b"loader.py " + sha256(Path(yaml.loader.__file__).read_bytes()).digest()
    assert code_digest("yaml.loader:Loader") == sha256(told).hexdigest()
    package = b"1.2 3" + b"__init__.py " + sha256(Path(yaml.__file__).read_bytes()).digest()
    assert code_digest("yaml:load") == sha256(package).hexdigest()
    monkeypatch.setattr("importlib.metadata.packages_distributions", dict)
    assert code_digest("yaml.loader:Loader") == sha256(told.removeprefix(b"1.2 3")).hexdigest()


def test_a_digest_of_an_installed_package_has_its_version(monkeypatch):
    # it takes seconds
    monkeypatch.setattr("importlib.metadata.packages_distributions", cache(metadata.packages_distributions))
    first = code_digest("yaml.loader:Loader")
    assert first == code_digest("yaml.loader:Loader") != code_digest("yaml.dumper:Dumper")
    monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0")
    assert code_digest("yaml.loader:Loader") != first


@pytest.mark.parametrize(
    ("record", "value"),
    [
        (Model, {"name": "{}:part"}),
        (Data, {"name": "{}:part", "train_samples": "all", "validation_samples": 5, "split_seed": 0}),
        (Method, {"name": "a", "objective": "{}:part", "inner": "{}:part"}),
        (Attack, {"name": "{}:part", "options": {"steps": 3, "fast": True, "alpha": 0.5, "kind": "a"}}),
    ],
)
def test_a_record_holds_the_digest_of_its_code_and_keeps_one_that_it_is_given(module, record, value):
    name = module("def part(): pass\n")
    filled = {key: each.format(name) if isinstance(each, str) else each for key, each in value.items()}
    found = parse(record, filled, "here")
    entries = [f"{name}:part"] * sum(str(each).startswith(name) for each in filled.values())
    assert found.code == code_digest(*entries)
    assert parse(record, asdict(found), "here") == found
    assert parse(record, filled | {"code": "old"}, "here").code == "old"


@pytest.mark.parametrize(
    ("text", "entry", "message"),
    [
        ("", "{}:part", "here: {}.py has no part: correct the name, or write the function"),
        ("def partial(): pass", "{}:part", "here: {}.py has no part: correct the name, or write the function"),
        ("def part(:", "{}:part", "here: {}.py is no Python that runs (invalid syntax"),
        ("def part(:", "{}:part", ", line 1)): fix it"),
        ("", "{}.inner:part", "here: no module {}.inner, neither in {here} nor installed: correct the name"),
        (
            "",
            "nowhere_at_all:part",
            "here: no module nowhere_at_all, neither in {here} nor installed: correct the name",
        ),
        ("", "{}: part", "is no function of a module: give module:function, as in my_parts:network"),
        ("", "sys:exit", "here: sys is a module of Python itself: give one of your own"),
        ("", "/etc:part", "is no function of a module"),
    ],
)
def test_a_function_that_is_not_there_is_one_line_before_anything_runs(module, text, entry, message):
    name = module(text)
    said = refusal(parse, Model, {"name": entry.format(name)}, "here")
    assert message.format(name, here=Path.cwd()) in said


def test_what_is_no_option_is_one_line(module):
    name = module("def part(): pass")
    for options in ({"a": None}, {"a": [1]}, [1]):
        assert "options" in refusal(parse, Model, {"name": f"{name}:part", "options": options}, "here")
    wrong = {"name": "a", "objective": f"{name}:part", "inner": "linf"}
    assert "inner" in refusal(parse, Method, wrong, "here")
    assert "is no inner problem: give cross_entropy, kl, module:function or null" in refusal(
        parse, Method, wrong, "here"
    )


def test_the_trainer_may_be_a_text(module):
    name = module("def fit(): pass")
    found = parse(Config, BASE | {"memorization": BASE["memorization"] | {"trainer": f"{name}:fit"}}, "here")
    assert found.memorization.trainer.name == f"{name}:fit"
    assert parse(Config, BASE, "here").memorization.trainer is None


def test_the_functions_of_a_record_are_digested_and_names_of_known_parts_are_not(module, tmp_path):
    name = module(PART)
    for inner in ("kl", None):
        method = parse(Method, {"name": "a", "objective": f"{name}:part", "inner": inner}, "here")
        assert own_function(method.objective, "give f", taken=1, keywords=("shape",), part=method)(1, shape=2)
    method = parse(Method, {"name": "a", "objective": f"{name}:part", "inner": f"{name}:fails"}, "here")
    (tmp_path / f"{name}.py").write_text(PART + "# edited\n")
    said = refusal(lambda: own_function(method.objective, "give f", taken=1, keywords=("shape",), part=method))
    assert said == (
        f"{name}:part, {name}:fails: the code was edited after this run was planned: give the same command again (and "
        "remove the key code where a config has one)"
    )
    (tmp_path / f"{name}.py").write_text("def part(): pass\n")
    said = refusal(lambda: own_function(method.objective, "give f", taken=1, keywords=("shape",), part=method))
    assert said == (f"{name}:part, {name}:fails: {name}.py has no fails: correct the name, or write the function")
    (tmp_path / f"{name}.py").unlink()
    said = refusal(lambda: own_function(method.objective, "give f", taken=1, keywords=("shape",), part=method))
    assert said.startswith(f"{name}:part, {name}:fails: [Errno 2] No such file or directory: ")


PART = """def part(x, *, shape, width=1):
    return x, shape, width
def fails(x, *, shape):
    return [][shape]
def nothing():
    return 7
number = 3
"""


def test_a_function_gets_its_arguments_and_the_options(module):
    name = module(PART)
    model = parse(Model, {"name": f"{name}:part", "options": {"width": 5}}, "here")
    function = own_function(model.name, "give f", taken=1, keywords=("shape",), part=model)
    assert function(2, shape=3) == (2, 3, 5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("none:part", "none:part: the module none cannot be imported, from "),
        ("{}:none", "{}:none: no none in module {} (AttributeError: "),
        ("{}:number", "{}:number: is a int, not a function: give f"),
        *(
            (entry, f"{entry}: no such file, and no module:function either: give f")
            for entry in ("{}", "{}:", ":part", ".{}:part")
        ),
        ("{}:part:x", "{}:part:x: no part:x in module {} (AttributeError: "),
    ],
)
def test_a_function_that_cannot_be_had_is_one_line(module, entry, message):
    name = module(PART)
    said = refusal(lambda: own_function(entry.format(name), "give f", taken=1, keywords=("shape",)))
    assert said.startswith(message.format(name, name))
    assert said.endswith(": give f")


def test_what_a_function_is_given_by_default_is_nothing(module):
    name = module(PART)
    assert own_function(f"{name}:nothing", "give f")() == 7
    # one of C code does not say what it takes
    assert own_function("builtins:dict", "give f", taken=1, keywords=("a",))([("b", 1)], a=2) == {"a": 2, "b": 1}
    missing = "missing a required argument: 'x'"
    assert refusal(lambda: own_function(f"{name}:part", "give f")) == (
        f"{name}:part: the function wants arguments ({missing}): give f"
    )
    for taken, keywords, wrong in ((0, ("shape",), missing), (1, (), missing.replace("'x'", "'shape'"))):
        said = refusal(partial(own_function, f"{name}:part", "give f", taken=taken, keywords=keywords))
        assert said == f"{name}:part: the function does not take what it is given ({wrong}): give f"


def test_modules_are_looked_for_in_the_working_directory_first(module, monkeypatch, tmp_path):
    name = module(PART)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    for _ in range(2):
        own_function(f"{name}:nothing", "give f")
    assert (sys.path[0], sys.path.count(str(tmp_path))) == (str(tmp_path), 1)
    said = refusal(lambda: own_function("none:part", "give f"))
    start = (
        f"none:part: the module none cannot be imported, from {tmp_path} or an installed package (ModuleNotFoundError: "
    )
    assert (said.startswith(start), said.endswith("): give f")) == (True, True)


def test_a_function_that_takes_something_else_or_fails_is_one_line(module):
    name = module(PART)
    said = refusal(lambda: own_function(f"{name}:part", "give f", taken=2))
    assert said.startswith(
        f"{name}:part: the function does not take what it is given (too many positional arguments): "
    )
    model = OwnModel(name=f"{name}:part", options={"depth": 1})
    said = refusal(lambda: own_function(f"{name}:part", "give f", taken=1, keywords=("shape",), part=model))
    assert "got an unexpected keyword argument 'depth'" in said
    function = own_function(f"{name}:fails", "give f", taken=1, keywords=("shape",))
    assert refusal(lambda: function(1, shape=2)) == (
        f"{name}:fails: the function fails (IndexError: list index out of range, {name}.py line 4): give f"
    )


def test_code_that_was_edited_since_is_refused(module, tmp_path):
    name = module(PART)
    model = OwnModel(name=f"{name}:part")
    (tmp_path / f"{name}.py").write_text(PART + "# edited\n")
    said = refusal(lambda: own_function(model.name, "give f", taken=1, keywords=("shape",), part=model))
    assert said.startswith(f"{name}:part: the code was edited after this run was planned: give the same command again")
