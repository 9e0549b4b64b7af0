import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.engine.protocol import (
    Called,
    Delta,
    EmbedRequest,
    EngineError,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Grammar,
    InvalidRequest,
    Message,
    Sampling,
    Tool,
    TooLong,
    UnknownModel,
)
from appliance.engine.served import SelfTestError, Served, ServedDecoder, ServedEncoder, load
from appliance.engine.session import ProviderError
from appliance.engine.tokens import Tokenizers
from models.manifest import Manifest, SelfTest, read_manifest
from tests.engine.conftest import SMALL
from tests.support.tiny_models import CONTEXT, IM_START, QUERY_PREFIX, write_chat, write_embed


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat(tmp_path_factory.mktemp("served") / "chat")


@pytest.fixture(scope="module")
def embed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embed(tmp_path_factory.mktemp("served") / "embed")


def opened(folder: Path, **changes: Any) -> Served:
    manifest = read_manifest(folder).model_copy(update=changes)
    return load(SimpleNamespace(manifest=manifest, digest=b"\7" * 32, folder=folder), SMALL, Tokenizers())


def decoder(folder: Path, **changes: Any) -> ServedDecoder:
    served = opened(folder, **changes)
    assert isinstance(served, ServedDecoder)
    return served


def ask(prompt: str, max_tokens: int | None = None) -> GenerateRequest:
    return GenerateRequest("tiny-chat", max_tokens, prompt=prompt)


def test_it_says_what_runs(chat_folder: Path) -> None:
    info = opened(chat_folder).info
    assert (info.name, info.digest, info.lane, info.provider) == (
        "tiny-chat",
        b"\7" * 32,
        "fp32",
        "CPUExecutionProvider",
    )
    assert info.context_tokens == CONTEXT, "the model's own, being shorter than the setting"


def test_the_setting_bounds_a_longer_context(chat_folder: Path) -> None:
    manifest: Manifest = read_manifest(chat_folder)
    package = SimpleNamespace(manifest=manifest, digest=b"", folder=chat_folder)
    assert load(package, replace(SMALL, context_tokens=64), Tokenizers()).info.context_tokens == 64


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, 10_000_000])
def test_a_prompt_leaves_room_for_at_least_one_token(chat_folder: Path, length: int) -> None:
    served = decoder(chat_folder)
    if length < CONTEXT:
        assert served.prepare(1, ask("a" * length)).limit == 1
        return
    with pytest.raises(TooLong) as refused:
        served.prepare(1, ask("a" * length))
    assert refused.value.field == "prompt"
    with pytest.raises(TooLong) as refused:
        served.prepare(1, GenerateRequest("m", None, messages=(Message("user", "a" * length),)))
    assert refused.value.field == "messages"


def test_more_tokens_than_fit_after_the_prompt_are_refused(chat_folder: Path) -> None:
    served = decoder(chat_folder)
    assert served.prepare(1, ask("abc", CONTEXT - 3)).limit == CONTEXT - 3
    with pytest.raises(TooLong) as refused:
        served.prepare(1, ask("abc", CONTEXT - 2))
    assert refused.value.field == "max_tokens"


def test_a_first_token_is_put_before_prompts_where_the_manifest_names_one(chat_folder: Path) -> None:
    assert decoder(chat_folder).prepare(1, ask("ab")).prompt == [97, 98]
    impossible = (SelfTest(text="a", tokens=(9999,)),)
    with pytest.raises(SelfTestError) as failed:
        decoder(chat_folder, bos_token_id=IM_START, self_test=impossible)
    answer = int(re.findall(r"begins with token (\d+)", str(failed.value))[0])
    served = decoder(chat_folder, bos_token_id=IM_START, self_test=(SelfTest(text="a", tokens=(answer,)),))
    assert served.prepare(1, ask("ab")).prompt == [IM_START, 97, 98]


def test_an_empty_prompt_is_nothing_to_go_on_from(chat_folder: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decoder(chat_folder).prepare(1, ask(""))
    assert refused.value.field == "prompt"


def caller(folder: Path) -> ServedDecoder:
    """A template that knows tools and does not spend the tiny context on them."""
    chat = read_manifest(folder).chat
    assert chat
    return decoder(folder, chat=chat.model_copy(update={"template": chat.template + "{# <tool_call> #}"}))


def run(served: ServedDecoder, **fields: Any) -> list[GenerateEvent]:
    """All events of one call."""
    request = GenerateRequest(**{"model": "m", "max_tokens": 60, "messages": (Message("user", "hi"),), **fields})
    served.stepper.submit(served.prepare(1, request))
    events: list[GenerateEvent] = []
    while served.stepper.busy:
        for _, event in served.stepper.step():
            assert not isinstance(event, EngineError)
            events.append(event)
    return events


def test_what_is_asked_of_an_answer_is_kept(chat_folder: Path) -> None:
    served = caller(chat_folder)
    seeded = Sampling(seed=4)
    *deltas, finished = run(served, grammar=Grammar("regex", "[ab]{7}"), sampling=seeded)[1:]
    assert re.fullmatch("[ab]{7}", "".join(event.text for event in deltas if isinstance(event, Delta)))
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.completion_tokens) == ("stop", 8)
    cut = run(served, grammar=Grammar("regex", "[ab]{7}"), max_tokens=6)[-1]
    assert isinstance(cut, Finished)
    assert cut.reason == "length", "the caller knows that it is not whole"

    asked = {"tools": (Tool("look", "", '{"properties": {}, "additionalProperties": false}'),), "sampling": seeded}
    first, again = (run(served, tool_choice="required", parallel_tool_calls=False, **asked)[1:] for _ in range(2))
    assert first == again
    called, finished = first
    assert isinstance(called, Called)
    assert isinstance(finished, Finished)
    assert (called.call.name, called.call.arguments, called.call.id[:5]) == ("look", "{}", "call_")
    assert (finished.reason, finished.completion_tokens) == ("tool_calls", called.tokens + 1)

    events = run(served, sampling=seeded, logprobs=2, max_tokens=20)
    shown = [event for event in events if isinstance(event, Delta)]
    assert shown
    assert all(len(event.logprobs) == event.tokens for event in shown)
    assert all(len(chosen.top) == 2 for event in shown for chosen in event.logprobs)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("logit_bias", {"sampling": Sampling(logit_bias=((100_000, 1.0),))}),
        ("response_format", {"grammar": Grammar("regex", "(")}),
        ("tools", {"tools": (Tool("look", "", '{"properties": {"a": {"uniqueItems": true}}}'),)}),
    ],
)
def test_what_this_model_cannot_honour_is_refused(chat_folder: Path, field: str, fields: dict[str, Any]) -> None:
    request = GenerateRequest("m", 5, messages=(Message("user", "a"),), **fields)
    with pytest.raises(InvalidRequest) as refused:
        caller(chat_folder).prepare(1, request)
    assert refused.value.field == field


def test_a_model_without_a_template_does_not_chat(chat_folder: Path) -> None:
    served = decoder(chat_folder, chat=None, tasks=("completion",))
    with pytest.raises(UnknownModel):
        served.prepare(1, GenerateRequest("m", None, messages=(Message("user", "a"),)))


def test_a_role_puts_the_models_own_prefix_before_each_text(embed_folder: Path) -> None:
    served = opened(embed_folder)
    assert isinstance(served, ServedEncoder)
    assert served.prepare(1, EmbedRequest("m", ("a", "b"), "query")).texts == (QUERY_PREFIX + "a", QUERY_PREFIX + "b")
    assert served.prepare(1, EmbedRequest("m", ("a",))).texts == ("a",)


def test_a_decoder_that_does_not_answer_its_self_test_does_not_serve(chat_folder: Path) -> None:
    (right,) = read_manifest(chat_folder).self_test
    wrong = SelfTest(text=right.text, tokens=((right.tokens[0] + 1) % 256,))
    with pytest.raises(SelfTestError, match=r"self_test\[1\]"):
        opened(chat_folder, self_test=(right, wrong))


def test_an_encoder_that_does_not_answer_its_self_test_does_not_serve(embed_folder: Path) -> None:
    (right,) = read_manifest(embed_folder).self_test
    wrong = SelfTest(text=right.text, vector=tuple(-value for value in right.vector))
    with pytest.raises(SelfTestError, match=r"self_test\[0\] has cosine -"):
        opened(embed_folder, self_test=(wrong,))


def test_a_missing_provider_is_no_reason_to_use_another(embed_folder: Path) -> None:
    package = SimpleNamespace(manifest=read_manifest(embed_folder), digest=b"", folder=embed_folder)
    with pytest.raises(ProviderError):
        load(package, replace(SMALL, provider="NoSuchExecutionProvider"), Tokenizers())
