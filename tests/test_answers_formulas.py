"""Tests of the comparison of formulas: what goes wrong in it costs one reply, and never the run."""

import logging
import os
import sys
import threading
import time

import pytest

from edit_trl.answers import answers_match, formulas


pytest.importorskip("math_verify")

# Formulas that math-verify needs minutes for, or all memory.
ENDLESS = ["9^{9^{9^{9}}}", "10^{10^{10}}", "\\int_0^1 e^{-x^2}\\sin(x^{x}) dx"]


@pytest.fixture
def short_limit(monkeypatch):
    monkeypatch.setattr(formulas, "_TIME_LIMIT", 1.0)


@pytest.fixture
def no_worker():
    formulas._WORKER.stop()
    yield
    formulas._WORKER.stop()
    formulas._WORKER.num_failed_starts = 0


@pytest.mark.slow
class TestSameFormula:
    @pytest.mark.parametrize("endless", ENDLESS)
    def test_formula_without_end_is_given_up_and_the_next_one_compared(self, endless, short_limit):
        start = time.monotonic()
        assert not answers_match(endless, "5^{2}")
        assert time.monotonic() - start < 20
        assert answers_match("\\sqrt{8}", "2\\sqrt{2}")

    def test_formula_without_end_in_a_thread(self, short_limit):
        found = []
        thread = threading.Thread(target=lambda: found.append(answers_match(ENDLESS[0], "5^{2}")), daemon=True)
        thread.start()
        thread.join(timeout=60)
        assert found == [False]

    def test_threads_get_their_own_answers(self):
        found = {}

        def compare(i):
            found[i] = answers_match(f"\\sqrt{{{i * i}}}", str(i)), answers_match(f"\\sqrt{{{i * i}}}", str(i + 1))

        threads = [threading.Thread(target=compare, args=(i,)) for i in range(2, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == dict.fromkeys(range(2, 10), (True, False))

    @pytest.mark.parametrize(
        "broken", ["\\frac{1}{0}", "\\frac{1", "\\sqrt{" * 200 + "2" + "}" * 200, "\\undefined{x}"]
    )
    def test_formula_that_cannot_be_read_is_different(self, broken):
        assert not answers_match(broken, "\\sqrt{17}")
        assert answers_match("\\sqrt{8}", "2\\sqrt{2}")

    def test_process_that_dies_is_started_again(self):
        assert answers_match("\\sqrt{8}", "2\\sqrt{2}")
        formulas._WORKER.process.kill()
        formulas._WORKER.process.wait()
        assert answers_match("\\sqrt{8}", "2\\sqrt{2}")

    def test_process_that_does_not_start_is_said_once(self, monkeypatch, caplog, no_worker):
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        formulas._say_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert not answers_match("\\sqrt{8}", "2\\sqrt{2}")
        assert caplog.text.count("Formulas are compared as text") == 1

    def test_missing_package_is_said_once(self, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules, "math_verify", None)
        formulas._say_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert not answers_match("\\sqrt{8}", "2\\sqrt{2}")
        assert caplog.text.count("pip install math-verify") == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_fork_has_its_own_process(self):
        assert answers_match("\\sqrt{8}", "2\\sqrt{2}")
        child = os.fork()
        if child == 0:
            is_right = answers_match("\\sqrt{18}", "3\\sqrt{2}") and not answers_match("\\sqrt{18}", "\\sqrt{2}")
            formulas._WORKER.stop()
            os._exit(0 if is_right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert answers_match("\\sqrt{8}", "2\\sqrt{2}")
