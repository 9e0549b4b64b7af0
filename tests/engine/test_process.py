import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine.child import EXIT_DONE, EXIT_PROTOCOL
from appliance.engine.messages import configure, dump
from appliance.engine.process import EngineProcess, child_environment
from appliance.engine.protocol import (
    EmbedRequest,
    EngineUnavailable,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Message,
    Sampling,
    Started,
    UnknownModel,
)
from appliance.engine.wire import encode_frame, receive_frame
from models.store import Store
from tests.engine.conftest import READY_S, SMALL, running, until
from tests.support.tiny_models import SCRIPT_TEXT, TEMPLATE, install, install_all, write_chat, write_embed, write_script

ROOT = Path(__file__).parents[2]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + TEMPLATE


def ask(model: str = "tiny-chat", max_tokens: int | None = 20, text: str = "hello") -> GenerateRequest:
    return GenerateRequest(model, max_tokens, (Message("user", text),), sampling=Sampling(temperature=0))


async def collect(events: AsyncGenerator[GenerateEvent, None]) -> list[GenerateEvent]:
    return [event async for event in events]


async def pid_of(engine: EngineProcess) -> int:
    pid = (await engine.health()).pid
    assert pid
    return pid


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead but not yet waited for does not."""
    try:
        return _state(Path(f"/proc/{pid}")) != "Z"
    except FileNotFoundError:
        return False


async def freeze(pid: int) -> None:
    """Stop the process and return once each of its threads stands still: a signal is on its way for a while."""
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: all(_state(task) == "T" for task in Path(f"/proc/{pid}/task").iterdir()), "it stands still")


def _state(task: Path) -> str:
    return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]


async def test_hindi_streams_in_whole_characters_though_its_tokens_do_not(packages: Path) -> None:
    async with running(packages) as engine:
        _, *deltas, finished = await collect(engine.generate(ask("tiny-script")))
        texts = [getattr(delta, "text", None) for delta in deltas]
        assert texts == ["ह", "ा", " one", " two", " th", "ree", " four"]
        assert finished == Finished("stop", finished.prompt_tokens, 10) if isinstance(finished, Finished) else False


async def test_a_stop_string_may_lie_across_tokens(packages: Path) -> None:
    async with running(packages) as engine:
        events = await collect(engine.generate(replace(ask("tiny-script"), stop=("three",))))
        assert "".join(getattr(event, "text", "") for event in events) == SCRIPT_TEXT[: SCRIPT_TEXT.find("three")]


async def test_a_killed_child_costs_the_calls_in_flight_and_comes_back(packages: Path) -> None:
    async with running(packages) as engine:
        before = await pid_of(engine)
        expected = await collect(engine.generate(ask()))
        await freeze(before)  # So that the calls are surely under way when it dies.
        calls = [collect(engine.generate(ask())), engine.embed(EmbedRequest("tiny-embed", ("a",)))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0.05)
        os.kill(before, signal.SIGKILL)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineUnavailable, EngineUnavailable]
        await engine.wait_ready(READY_S)
        health = await engine.health()
        assert health.restarts == 1
        assert health.pid != before
        assert (health.queued, health.running) == (0, 0)
        assert await collect(engine.generate(ask())) == expected


async def test_a_hung_child_is_killed_and_replaced(packages: Path) -> None:
    async with running(packages, replace(SMALL, patience_beats=20)) as engine:
        before = await pid_of(engine)
        await freeze(before)
        with pytest.raises(EngineUnavailable):
            await collect(engine.generate(ask()))
        await engine.wait_ready(READY_S)
        assert await pid_of(engine) != before
        assert not alive(before)


async def test_calls_before_it_is_ready_are_refused_as_unavailable(packages: Path) -> None:
    engine = EngineProcess(packages, SMALL)
    with pytest.raises(EngineUnavailable):
        await engine.models()
    await engine.start()
    with pytest.raises(EngineUnavailable):
        await engine.embed(EmbedRequest("tiny-embed", ("a",)))
    assert not (await engine.health()).ready
    await engine.stop()


async def test_a_child_that_never_gets_ready_is_tried_again_and_again(packages: Path) -> None:
    engine = EngineProcess(packages, replace(SMALL, backoff_s=0.01, backoff_s_max=0.02), python="/bin/false")
    await engine.start()
    with pytest.raises(EngineUnavailable):
        await engine.wait_ready(0.5)
    health = await engine.health()
    assert health.restarts >= 2
    assert not health.ready
    await engine.stop()


async def test_stopping_lets_running_calls_finish_and_leaves_no_process(packages: Path) -> None:
    async with running(packages) as engine:
        pid = await pid_of(engine)
        events = engine.generate(ask(max_tokens=80))
        assert isinstance(await anext(events), Started)
        _, rest = await asyncio.gather(engine.stop(), collect(events))
        assert isinstance(rest[-1], Finished)
        assert not alive(pid)
        assert not (await engine.health()).ready
        await engine.stop()
        with pytest.raises(EngineUnavailable):
            await collect(engine.generate(ask()))


PARENT = """
import asyncio, os, sys, time
from pathlib import Path
from appliance.engine.process import EngineProcess
from tests.engine.conftest import READY_S, SMALL

async def main():
    engine = EngineProcess(Path(sys.argv[1]), SMALL)
    await engine.start()
    await engine.wait_ready(READY_S)
    fork = os.fork() if sys.argv[2] == "forked" else 0
    if sys.argv[2] == "forked" and fork == 0:
        time.sleep(600)
        os._exit(0)
    print((await engine.health()).pid, fork, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["plain", "forked"])
async def test_the_child_dies_with_its_parent_even_when_that_is_killed(packages: Path, kind: str) -> None:
    """Also when a fork of the parent keeps the socket open, so that no end of file tells the child."""
    command = [sys.executable, "-c", PARENT, str(packages), kind]
    # Not asyncio's: its `wait` would also wait for the fork, which has the pipe.
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:  # noqa: ASYNC220
        assert parent.stdout
        child, fork = map(int, (await asyncio.to_thread(parent.stdout.readline)).split())
        assert alive(child)
        parent.kill()
    try:
        await until(lambda: not alive(child), "the child is gone")
    finally:
        if fork:
            assert alive(fork), "the fork held the socket all the time"
            os.kill(fork, signal.SIGKILL)


async def test_a_package_that_hangs_the_engine_while_loading_does_not_take_the_others_down(tmp_path: Path) -> None:
    install(tmp_path / "store", write_embed(tmp_path / "embed"), write_chat(tmp_path / "chat", template=ENDLESS))
    settings = replace(SMALL, load_s=2.0, backoff_s=0.01)
    async with running(tmp_path / "store", settings) as engine:
        health = await engine.health()
        assert health.restarts == 2
        ((name, reason),) = health.set_aside
        assert name == "tiny-chat"
        assert "crashed" in reason
        assert [model.name for model in await engine.models()] == ["tiny-embed"]
        with pytest.raises(UnknownModel, match="crashed"):
            await collect(engine.generate(ask()))


async def test_a_package_that_fails_its_self_test_is_set_aside(tmp_path: Path) -> None:
    broken = write_chat(tmp_path / "chat")
    other = write_chat(tmp_path / "other", seed=5)
    (broken / "model.fp32.onnx").write_bytes((other / "model.fp32.onnx").read_bytes())
    install(tmp_path / "store", write_script(tmp_path / "script"), broken)
    async with running(tmp_path / "store") as engine:
        ((name, reason),) = (await engine.health()).set_aside
        assert name == "tiny-chat"
        assert "SelfTestError" in reason
        assert isinstance((await collect(engine.generate(ask("tiny-script"))))[-1], Finished)


async def test_a_damaged_package_is_set_aside(tmp_path: Path) -> None:
    install_all(tmp_path / "store", tmp_path)
    graph = Store(tmp_path / "store").current("tiny-chat").folder / "model.fp32.onnx"
    graph.chmod(0o600)
    graph.write_bytes(graph.read_bytes()[:-1])
    async with running(tmp_path / "store") as engine:
        assert [name for name, _ in (await engine.health()).set_aside] == ["tiny-chat"]
        assert {model.name for model in await engine.models()} == {"tiny-script", "tiny-embed"}


async def test_an_empty_store_serves_nothing_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        assert await engine.models() == ()
        with pytest.raises(UnknownModel):
            await collect(engine.generate(ask()))


async def test_reload_follows_the_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (first,) = install(store, write_script(tmp_path / "script"))
    async with running(store) as engine:
        assert [model.name for model in await engine.models()] == ["tiny-script"]
        (second,) = install(store, write_chat(tmp_path / "chat"))
        answering = engine.generate(ask("tiny-script"))
        assert isinstance(await anext(answering), Started)
        assert await engine.reload() == ()
        assert {model.digest for model in await engine.models()} == {first.digest, second.digest}
        Store(store).deactivate("tiny-script")
        await engine.reload()
        assert [model.name for model in await engine.models()] == ["tiny-chat"]
        assert isinstance((await collect(answering))[-1], Finished), "what was under way goes on"
        (third,) = install(store, write_chat(tmp_path / "newer", seed=1))
        await engine.reload()
        assert [model.digest for model in await engine.models()] == [third.digest]
        assert (await engine.health()).restarts == 0


async def test_calls_that_come_while_packages_are_swapped_are_all_answered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    install(store, write_embed(tmp_path / "a"))
    install(store, write_embed(tmp_path / "b", seed=1))
    swapped = asyncio.Event()
    async with running(store) as engine:

        async def keep_asking() -> int:
            asked = 0
            while not swapped.is_set():
                await engine.embed(EmbedRequest("tiny-embed", ("a",)))
                asked += 1
            return asked

        callers = [asyncio.create_task(keep_asking()) for _ in range(2)]
        for _ in range(10):
            Store(store).roll_back("tiny-embed")
            assert await engine.reload() == ()
        swapped.set()
        async with asyncio.timeout(READY_S):
            assert min(await asyncio.gather(*callers)) > 10


async def test_a_new_package_that_fails_leaves_the_old_one_serving(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (good,) = install(store, write_script(tmp_path / "script"))
    async with running(store) as engine:
        bad = write_script(tmp_path / "bad")
        (bad / "model.fp32.onnx").write_bytes(b"no graph")
        install(store, bad)
        ((name, _),) = await engine.reload()
        assert name == "tiny-script"
        assert [model.digest for model in await engine.models()] == [good.digest]
        assert isinstance((await collect(engine.generate(ask("tiny-script"))))[-1], Finished)


async def test_a_request_larger_than_a_frame_is_refused_and_harms_nobody(packages: Path) -> None:
    from appliance.engine.protocol import InvalidRequest

    async with running(packages) as engine:
        with pytest.raises(InvalidRequest) as refused:
            await engine.embed(EmbedRequest("tiny-embed", ("x" * (33 << 20),)))
        assert refused.value.field == "texts"
        await engine.embed(EmbedRequest("tiny-embed", ("x",)))
        assert (await engine.health()).restarts == 0


async def test_nothing_that_was_asked_or_answered_is_logged(
    packages: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(packages) as engine:
        events = await collect(engine.generate(ask(text="ration card 9876")))
        with pytest.raises(UnknownModel):
            await collect(engine.generate(ask("nobody", text="ration card 9876")))
        os.kill(await pid_of(engine), signal.SIGKILL)
        await until(lambda: "starting it again" in caplog.text, "the death is logged")
    said = caplog.text + "".join(capfd.readouterr())
    answer = "".join(getattr(event, "text", "") for event in events)
    assert "ration" not in said
    assert answer not in said


async def test_a_reload_that_its_caller_gave_up_on_disturbs_nobody(packages: Path) -> None:
    async with running(packages) as engine:
        given_up = asyncio.create_task(engine.reload())
        await asyncio.sleep(0)
        given_up.cancel()
        assert await engine.reload() == ()
        assert (await engine.health()).restarts == 0


async def test_a_reload_of_a_child_that_dies_is_told_so(packages: Path) -> None:
    async with running(packages) as engine:
        pid = await pid_of(engine)
        await freeze(pid)
        reload = asyncio.create_task(engine.reload())
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            await reload


async def test_a_program_that_cannot_be_started_is_tried_again(packages: Path) -> None:
    engine = EngineProcess(packages, replace(SMALL, backoff_s=0.01, backoff_s_max=0.02), python="/no/such/python")
    await engine.start()
    with pytest.raises(EngineUnavailable):
        await engine.wait_ready(0.5)
    assert (await engine.health()).restarts >= 2
    await engine.stop()


def test_the_box_itself_never_loads_the_runtime_of_the_models() -> None:
    program = "import sys, appliance.engine.process; sys.exit('onnxruntime' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_child_is_told_nothing_but_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUKKAD_OPERATOR_TOKEN", "secret")
    environment = child_environment(3)
    assert "NUKKAD_OPERATOR_TOKEN" not in environment
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["OMP_NUM_THREADS"] == "3"


# The child by itself, spoken to by hand.


def start_child(packages: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", "appliance.engine.child", "--fd", str(theirs.fileno())]
        child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=child_environment(1))
    ours.sendall(encode_frame(dump(configure(packages, SMALL, ()))))
    while not any(message["kind"] == "loaded" for message in receive_frame(ours)):
        pass
    return child, ours


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        encode_frame("no message"),
        encode_frame({"kind": "configure"}),
        encode_frame(dump(configure(Path("/"), SMALL, ()))),
        b"\x00\x00\x00\x01\xff",
    ],
)
def test_the_child_ends_rather_than_guess_at_a_frame(packages: Path, garbage: bytes) -> None:
    child, ours = start_child(packages)
    with ours:
        ours.sendall(garbage)
        assert child.wait(READY_S) == EXIT_PROTOCOL


def test_the_child_ends_when_its_socket_does(packages: Path) -> None:
    child, ours = start_child(packages)
    ours.close()
    assert child.wait(READY_S) == EXIT_DONE


def test_an_interrupt_from_the_terminal_is_the_parents_business(packages: Path) -> None:
    child, ours = start_child(packages)
    child.send_signal(signal.SIGINT)
    with ours:
        assert receive_frame(ours), "it goes on beating"
        assert child.poll() is None
    assert child.wait(READY_S) == EXIT_DONE
