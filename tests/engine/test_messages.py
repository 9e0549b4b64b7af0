from typing import Any

import cbor2
import numpy as np
import pytest

from appliance.engine import protocol
from appliance.engine.messages import (
    Beat,
    Cancel,
    Configure,
    Embed,
    FromChild,
    Generate,
    Loaded,
    Loading,
    Outcome,
    Reload,
    ToChild,
    Vectors,
    dump,
    from_outcome,
    parse_from_child,
    parse_to_child,
    to_outcome,
)
from appliance.engine.protocol import (
    EmbedRequest,
    EmbedResult,
    GenerateRequest,
    Grammar,
    Message,
    ModelInfo,
    Sampling,
    Tool,
    ToolCall,
)
from appliance.engine.settings import EngineSettings
from appliance.engine.wire import WireError


def over_the_wire(value: Any) -> Any:
    return cbor2.loads(cbor2.dumps(value))


@pytest.mark.parametrize(
    "message",
    [
        Configure("/store", EngineSettings(threads=3), (b"\1" * 32,)),
        Generate(
            1, GenerateRequest("m", None, prompt="नमस्ते", stop=("a", "b"), sampling=Sampling(0.5, 0.9, 3, seed=-7))
        ),
        Generate(2, GenerateRequest("m", 9, messages=(Message("system", "s"), Message("user", "u")))),
        Generate(
            3,
            GenerateRequest(
                "m",
                9,
                messages=(
                    Message("assistant", "", (ToolCall("call_1", "look", "{}"),)),
                    Message("tool", "r", tool_call_id="call_1"),
                ),
                sampling=Sampling(min_p=0.1, presence_penalty=1, frequency_penalty=-1, logit_bias=((5, -100.0),)),
                grammar=Grammar("regex", "a+"),
                logprobs=3,
                tools=(Tool("look", "d", "{}"),),
                tool_choice="required",
                parallel_tool_calls=False,
                owner="k",
            ),
        ),
        Embed(3, EmbedRequest("m", ("a", "b"), "query")),
        Cancel(4),
        Reload(),
    ],
)
def test_messages_to_the_child_arrive_as_they_were(message: ToChild) -> None:
    assert parse_to_child(over_the_wire(dump(message))) == message


@pytest.mark.parametrize(
    "outcome",
    [
        protocol.Started(5),
        protocol.Started(5, 3),
        protocol.Delta("हा", 2),
        protocol.Delta(
            "ह",
            1,
            (
                protocol.ChosenToken(
                    protocol.TokenLogprob(b"\xe0", -0.25),
                    (protocol.TokenLogprob(b"\xe0", -0.25), protocol.TokenLogprob(b"a", -1.5)),
                ),
            ),
        ),
        protocol.Called(protocol.ToolCall("call_1", "look", '{"a": 1}'), 9),
        protocol.Finished("tool_calls", 5, 7),
        protocol.Finished("length", 5, 7),
        protocol.UnknownModel("who?", "model"),
        protocol.InvalidRequest("no", "stop[0]"),
        protocol.TooLong("long", "prompt"),
        protocol.Overloaded("full"),
        protocol.EngineUnavailable("gone"),
    ],
)
def test_outcomes_arrive_as_they_were(outcome: Outcome) -> None:
    (message,) = parse_from_child(over_the_wire([dump(from_outcome(8, outcome))]))
    assert not isinstance(message, Beat | Loading | Loaded)
    arrived = to_outcome(message)
    assert message.call == 8
    assert type(arrived) is type(outcome)
    if isinstance(outcome, protocol.EngineError):
        assert isinstance(arrived, protocol.EngineError)
        assert (str(arrived), arrived.field) == (str(outcome), outcome.field)
    else:
        assert arrived == outcome


def test_vectors_arrive_bit_for_bit() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 5), dtype=np.float32)
    (message,) = parse_from_child(over_the_wire([dump(from_outcome(1, EmbedResult(vectors, (4, 5, 6))))]))
    assert isinstance(message, Vectors)
    arrived = to_outcome(message)
    assert isinstance(arrived, EmbedResult)
    assert arrived.tokens == (4, 5, 6)
    assert arrived.vectors.tobytes() == vectors.tobytes()


def test_news_arrives_as_it_was() -> None:
    info = ModelInfo("m", b"\2" * 32, "encoder", ("embedding",), ("hi",), 512, "int8", "CPUExecutionProvider")
    news: list[FromChild] = [Loading("m", b"\2" * 32), Loaded((info,), (("n", "why"),)), Beat()]
    assert parse_from_child(over_the_wire([dump(message) for message in news])) == news


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "cancel",
        {},
        {"kind": "secret words"},
        {"kind": "cancel"},
        {"kind": "cancel", "call": "secret words"},
        {"kind": "embed", "call": 1, "request": {"model": "m", "texts": 5, "role": "secret words"}},
        {"kind": "generate", "call": 1, "request": {"model": "m", "max_tokens": [], "messages": ["secret words"]}},
    ],
)
def test_an_unknown_message_is_refused_without_quoting_it(value: Any) -> None:
    with pytest.raises(WireError) as refused:
        parse_to_child(value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("value", [None, {}, [None], [{"kind": "delta", "call": 1}], [{"kind": "beat"}, 5]])
def test_an_unknown_message_of_the_child_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        parse_from_child(value)


@pytest.mark.parametrize("message", [Vectors(1, b"\0" * 7, (1,)), Vectors(1, b"", ())])
def test_vectors_that_are_no_rows_are_refused(message: Vectors) -> None:
    with pytest.raises(WireError):
        to_outcome(message)
