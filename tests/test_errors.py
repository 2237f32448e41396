"""What is told of an error, and what counts as an error of memory."""

import signal
import threading

import pytest
import torch

from bat.errors import BatError, in_words, is_out_of_memory, one_line, stoppable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\nb\t", "a\\nb"),
        ("é \x1b[31m", "é \\x1b[31m"),
        ("\udcff", "\\udcff"),
        ("", ""),
        (7, "7"),
        ("a" * 2000, "a" * 2000),
        ("a" * 2001, "a" * 1997 + "..."),
    ],
)
def test_one_line_escapes_what_cannot_be_printed_and_is_never_long(text, line):
    assert one_line(text) == line


def test_the_longest_line_counts_its_dots():
    assert one_line("abcdef", 6) == "abcdef"
    assert one_line("abcdefg", 6) == "abc..."


def test_an_expected_error_is_one_line_and_several_are_as_many():
    assert str(BatError("first\nsecond")) == "first\\nsecond"
    assert str(BatError("first\nsecond", 3)) == "first\\nsecond\n3"


class Speechless(Exception):
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("wrong\nvalue"), "ValueError: wrong\\nvalue"),
        (ValueError(), "ValueError"),
        (Speechless(), "Speechless"),
        (KeyError("a" * 398), "KeyError: '" + "a" * 398 + "'"),
        (KeyError("a" * 399), "KeyError: '" + "a" * 396 + "..."),
    ],
)
def test_an_error_in_words_has_its_kind_and_its_text(error, words):
    assert in_words(error) == words


def test_an_error_in_words_is_as_long_as_asked():
    assert in_words(ValueError("abcdefg"), 6) == "ValueError: abc..."


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        # torch's messages may hold a long trace before the reason
        (RuntimeError("frame\n" * 2000 + "out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_one):
    assert is_out_of_memory(error) is is_one


def test_another_thread_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
