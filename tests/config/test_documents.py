"""YAML as users write it: understood in one way, or refused with one line that says where and what to write."""

import os
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal, refusals

from bat.config import load
from bat.config.documents import LARGEST_DOCUMENT, read_document, read_value

PATIENCE = 20  # seconds, for what takes half of one on a quiet core and coverage slows fivefold


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: -3", {"a": -3}),
        ("a: +3", {"a": 3}),
        ("a: 0", {"a": 0}),
        ("a: 0.5", {"a": 0.5}),
        ("a: .5", {"a": 0.5}),
        ("a: 1.", {"a": 1.0}),
        ("a: 1.0e-3", {"a": 0.001}),
        ("a: -1.5e+3", {"a": -1500.0}),
        # text to YAML 1.1 alone
        ("a: 1e-3", {"a": 0.001}),
        ("a: 2E5", {"a": 200000.0}),
        ("a: 1.0e5", {"a": 100000.0}),
        ("a: -.5e3", {"a": -500.0}),
        ("a: 1e-300", {"a": 1e-300}),
        ("a: 0e7", {"a": 0.0}),
        ("a: true", {"a": True}),
        ("a: False", {"a": False}),
        ("a: null", {"a": None}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: digits", {"a": "digits"}),
        ("a: 'no'", {"a": "no"}),
        ('a: "010"', {"a": "010"}),
        ('a: "1e-3"', {"a": "1e-3"}),
        ("a: y", {"a": "y"}),
        ("a: 8/255", {"a": "8/255"}),
        ("a: .inf", {"a": "inf"}),
        ("a: +.INF", {"a": "inf"}),
        ("a: inf", {"a": "inf"}),
        ("a: [1, [2, b]]", {"a": [1, [2, "b"]]}),
        ("---\na: 1\n...\n", {"a": 1}),
        ("\ufeffa: 1", {"a": 1}),
        ('{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, d: 2}\nc: {<<: *x, b: 3}", {"a": {"b": 1, "d": 2}, "c": {"b": 3, "d": 2}}),
        ("a: &x {b: 1}\nc: &y {b: 2, e: 3}\nd: {b: 4, <<: [*x, *y]}", {"d": {"b": 4, "e": 3}}),
        ("a: &x {b: 1}\nc: &y {b: 2, e: 3}\nd: {<<: [*x, *y]}", {"d": {"b": 1, "e": 3}}),
        ("a: " + "9" * 100, {"a": int("9" * 100)}),
        ("a: " + "b" * 101, {"a": "b" * 101}),
    ],
)
def test_what_all_versions_of_yaml_read_alike_is_read_so(text, value):
    found = read_value(text, "here")
    assert {key: found[key] for key in value} == value
    assert [type(found[key]) for key in value] == [type(each) for each in value.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1e999", "a: 1e999 is text in YAML 1.1 and a number in 1.2: write a finite one"),
        ("a: 08", "a: 08 is text in YAML 1.1 and a number in 1.2: write 8, or"),
        ("a: 0o17", "a: 0o17 is text in YAML 1.1 and a number in 1.2: write 15, or"),
        ("a: 010", "a: 010 is read in several ways: write a number in decimal digits"),
        ("a: 0x1F", "a: 0x1F is read in several ways"),
        ("a: 0b11", "a: 0b11 is read in several ways"),
        ("a: 1_000", "a: 1_000 is read in several ways"),
        ("a: 1_0.5", "a: 1_0.5 is read in several ways"),
        ("a: 1:30", "a: 1:30 is read in several ways"),
        ("a: 1:30.5", "a: 1:30.5 is read in several ways"),
        ("a: 1.0e+999", "a: 1.0e+999 is read in several ways"),
        ("a: =", "a: = is read in several ways"),
        ("a: no", 'a: no is false in YAML 1.1 and text in 1.2: write false, or "no" for the text (line 1)'),
        ("a: [x, ON]", 'a.1: ON is true in YAML 1.1 and text in 1.2: write true, or "ON" for the text (line 1)'),
        ("b: 1\na:\n  c: Yes", "a.c: Yes is true in YAML 1.1"),
        ("a: 2026-11-25", 'a: 2026-11-25 is a date in YAML: write "2026-11-25" for the text (line 1)'),
        ("a: 2026-11-25 10:00:00", "a: 2026-11-25 10:00:00 is a date"),
        ("a: .nan", "a: .nan is no number to compute with"),
        ("a: -.inf", "a: -.inf is no number to compute with"),
        ("a: " + "9" * 5000, "a: has 5000 characters, too many for a number"),
        ("a: 1\nb: 2\na: 3", "a is there twice, in line 1 also: keep one (line 3)"),
        ("t:\n  a: 1\n  a: 1", "t: a is there twice, in line 2 also: keep one (line 3)"),
        ("t: [{a: 1, a: 1}]", "t.0: a is there twice"),
        ("t: {a: 1, 'a': 1}", "t: a is there twice"),
        ("x: &x {}\nt: {<<: *x, <<: *x}", "t: << is there twice"),
        ("t: {<<: 3}", "t: << merges maps"),
        ("1: x", "1 is a key but no text"),
        ("no: x", "no is a key but no text"),
        ("~: x", "~ is a key but no text"),
        ("1.5: x", "1.5 is a key"),
        ("t: {? [a] : x}", "t: a list or map is a key"),
        ("t: {[a]: x}", "t: a list or map is a key"),
        ("a: !!python/object:os.system {}", "has the tag tag:yaml.org,2002:python/object:os.system, and no tag"),
        ("a: !!str 010", "has the tag tag:yaml.org,2002:str"),
        ("a: !x [1]", "has the tag !x"),
        ("a: ! b", "has the tag !,"),
        ("!!map {a: 1}", "has the tag"),
        ("a:\n\tb: 1", "cannot be read as YAML (while scanning for the next token found character '\\t'"),
        ("a: [", "cannot be read as YAML (while parsing a flow node"),
        ("a: b: c", "cannot be read as YAML (mapping values are not allowed here, line 1, column 5)"),
        ("a: *x", "cannot be read as YAML (found undefined alias 'x', line 1, column 4)"),
        ("--- a\n--- b", "cannot be read as YAML (expected a single document in the stream"),
        ('a: "\\ud800"', "a: has a character that UTF-8 cannot hold"),
        ("a: \0", "cannot be read as YAML (unacceptable character #x0000"),
        ("a: " + "[" * 1000 + "]" * 1000, "is nested more than 30 levels deep"),
        ("\n".join("  " * i + "a:" for i in range(1000)), "is nested more than 30 levels deep"),
        ("a: &a [*a]", "a.0.0: grows too large with its anchors"),
        ("a: &a {b: *a}", "a.b.b: grows too large with its anchors"),
        ("\n".join([f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 20)]).replace("*k0", "1"), ""),
    ],
)
def test_what_is_read_in_two_ways_or_is_no_plain_value_is_refused(text, message):
    start = time.process_time()
    found = refusal(read_value, text, "here")
    assert time.process_time() - start < PATIENCE
    assert found.startswith(f"here: {message}")
    assert len(found) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("08", '08 is text in YAML 1.1 and a number in 1.2: write 8, or "08" for the text (line 1)'),
        ("\n1e999", "1e999 is text in YAML 1.1 and a number in 1.2: write a finite one (line 2)"),
        ("0o17", '0o17 is text in YAML 1.1 and a number in 1.2: write 15, or "0o17" for the text (line 1)'),
        ("a: {b: Off}", 'a.b: Off is false in YAML 1.1 and text in 1.2: write false, or "Off" for the text (line 1)'),
        ("-08", '-08 is text in YAML 1.1 and a number in 1.2: write -8, or "-08" for the text (line 1)'),
        ("a" * 99 + ": {b: no}", f'{"a" * 80}....b: no is false in YAML 1.1 and text in 1.2: write false, or "no" for '
        "the text (line 1)"),
        ("a: {<<: {b: .nan}}", "a.<<.b: .nan is no number to compute with: give a finite one (line 1)"),
        ("t: {'a': 1, \"\\ud800\": 1}", "t: has a character that UTF-8 cannot hold: remove it (line 1)"),
        ("010", '010 is read in several ways: write a number in decimal digits, or "010" for the text (line 1)'),
        ("[on]", '0: on is true in YAML 1.1 and text in 1.2: write true, or "on" for the text (line 1)'),
        ("-.INF", "-.INF is no number to compute with: give a finite one (line 1)"),
        ("9" * 101, "has 101 characters, too many for a number (line 1)"),
        ("{a: 1, a: 1}", "a is there twice, in line 1 also: keep one (line 1)"),
        ("t: {<<: [{}, 3]}", "t: << merges maps: give the alias of one (line 1)"),
        ("t: {[a]: x}", "t: a list or map is a key but no text: fix it (line 1)"),
        ("!x y", "has the tag !x, and no tag is understood here: remove it (line 1)"),
        ("!" + "x" * 80 + " y", f"has the tag !{'x' * 79}..., and no tag is understood here: remove it (line 1)"),
        ("!" + "x" * 79 + " y", f"has the tag !{'x' * 79}, and no tag is understood here: remove it (line 1)"),
        ('"\\ud800"', "has a character that UTF-8 cannot hold: remove it (line 1)"),
        ("[" * 31 + "]" * 31, "is nested more than 30 levels deep: no key lies so deep (line 1)"),
        ("a: &a [*a]", "a.0.0: grows too large with its anchors, past 20,000 values or 30 deep: shorten it (line 1)"),
        ("a: [", "cannot be read as YAML (while parsing a flow node expected the node content, but found "
        "'<stream end>', line 1, column 5)"),
        ("a: \0", 'cannot be read as YAML (unacceptable character #x0000: special characters are not allowed in '
        '"<unicode string>", position 3)'),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_with_its_place_and_what_to_write(text, message):
    assert refusal(read_value, text, "here") == f"here: {message}"


def test_20000_values_may_stand_in_a_document_and_no_more():
    assert len(read_value(f"[{'1, ' * 19_999}]", "here")) == 19_999
    assert "grows too large" in refusal(read_value, f"[{'1, ' * 20_000}]", "here")


def test_maps_may_lie_30_deep_and_no_deeper():
    assert read_value("[" * 30 + "]" * 30, "here")
    assert "30 levels" in refusal(read_value, "[" * 31 + "]" * 31, "here")
    # what stands before counts for nothing
    assert read_value("[[1, " + "[" * 28 + "]" * 28 + "]]", "here")
    assert "30 levels" in refusal(read_value, "[[1, " + "[" * 29 + "]" * 29 + "]]", "here")


def test_with_anchors_too_values_lie_30_deep_at_most():
    def document(depth):
        return "- &x " + "[" * 10 + "]" * 10 + "\n- " + "[" * depth + "*x" + "]" * depth

    assert read_value(document(20), "here")
    assert "grows too large" in refusal(read_value, document(21), "here")


@pytest.mark.parametrize("spare", [0, 1])
def test_files_up_to_a_size_are_read_in_time(tmp_path, spare):
    file = tmp_path / "config.yaml"
    text = "a: [" + "1.25, " * 15_000
    text += " " * (LARGEST_DOCUMENT - len(text) - 1) + "]" + " " * spare
    file.write_text(text)
    start = time.process_time()
    if spare:
        message = "has more than 100,000 bytes, too many for a configuration: shorten it"
        assert refusal(read_document, str(file)) == f"{file}: {message}"
    else:
        assert len(read_document(str(file))["a"]) == 15_000
    assert time.process_time() - start < PATIENCE


@pytest.mark.parametrize(
    ("start", "entry", "refused"),
    [
        ("training: {seeds: ", "{}", "19850 more things are wrong"),
        ("training: {methods: ", "0", "training.methods: has 19,900 entries: give at most 200"),
        ("training: {methods: ", "{}", "151 more things are wrong"),
        ("training: {methods: ", "bat", "training.methods: has 19,900 entries: give at most 200"),
        ("evaluation: {ensemble: ", "0", "19850 more things are wrong"),
        ("evaluation: {pairs: ", "0", "19850 more things are wrong"),
        ("evaluation: {pairs: ", "[]", "39750 more things are wrong"),
        ("removal: {fractions: ", "a", "19850 more things are wrong"),
        ("data: {classes: ", "a", "data.classes: has 19,900 entries: give at most 10,000"),
    ],
)
def test_a_file_of_wrong_entries_alone_is_refused_in_time(tmp_path, start, entry, refused):
    file = tmp_path / "config.yaml"
    file.write_text(f"{start}[{f'{entry},' * 19_900}]}}\n")  # of 20,000 values at most
    began = time.process_time()
    assert refusals(load, "config/config.yaml", str(file))[-1].endswith(refused)
    # where each is compared with all others it takes over 15
    assert time.process_time() - began < PATIENCE / 4


NO_UTF_8 = "cannot be read as YAML, since it is no UTF-8 text: save it as UTF-8"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: give KEY: VALUE lines"),
        (b"# nothing\n", "is empty: give KEY: VALUE lines"),
        (b"null", "is empty: give KEY: VALUE lines"),
        (b"- a\n", "is no map: give KEY: VALUE lines"),
        (b"7", "is no map: give KEY: VALUE lines"),
        (b"text", "is no map: give KEY: VALUE lines"),
        ("a: 1".encode("utf-16"), NO_UTF_8),
        ("a: 1".encode("utf-32"), NO_UTF_8),
        (b"a: caf\xe9", NO_UTF_8),
        (bytes(range(256)), NO_UTF_8),
        (b"\x7fELF\0\0", "cannot be read as YAML (unacceptable character"),
        (b'"a\\nb": 1', None),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    found = "; ".join(refusals(load, str(file)))
    if message:
        assert found.startswith(f"{file}: {message}")
        assert "(" in message or found == f"{file}: {message}"
    else:
        assert r"a\nb: unknown key" in found


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a named pipe, not a file" in refusal(load, str(tmp_path / "pipe"))
    assert "a folder, not a file" in refusal(load, str(tmp_path))
    assert "a device, not a file" in refusal(load, "/dev/zero")
    missing = tmp_path / "none.yaml"
    assert refusal(load, str(missing)) == f"{missing}: cannot be read (No such file or directory): give a file of YAML"
    assert "cannot be read" in refusal(load, "a\0b")
    assert "cannot be read" in refusal(load, "a" * 300)
    assert "no such user" in refusal(load, "~nosuchuser/config.yaml")


# texts that YAML would take for something else stand in quotes, as safe_dump writes them
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc_", min_size=1), PLAIN, max_size=4))
def test_what_a_library_writes_is_read_back(value):
    assert read_value(yaml.safe_dump(value), "here") == value
    assert read_value(yaml.safe_dump(value, default_flow_style=True), "here") == value
