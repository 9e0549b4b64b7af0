"""What any engine checks before it looks at a model: each refusal names the field and the fix."""

import math

from appliance.engine.protocol import EmbedRequest, GenerateRequest, InvalidRequest, Sampling

STOPS_MAX = 16
STOP_CHARS_MAX = 256
TEXTS_MAX = 2048
MESSAGES_MAX = 1024
TEMPERATURE_MAX = 2.0
SEED_MAX = 2**63 - 1


def check_generate(request: GenerateRequest) -> None:
    """Raise `InvalidRequest` for anything that no model could honour."""
    if (request.messages is None) == (request.prompt is None):
        raise InvalidRequest("give exactly one of messages and prompt", "messages")
    if request.messages is not None:
        if not 1 <= len(request.messages) <= MESSAGES_MAX:
            raise InvalidRequest(f"give between 1 and {MESSAGES_MAX} messages", "messages")
        for place, message in enumerate(request.messages):
            _check_text(message.content, f"messages[{place}].content")
    if request.prompt is not None:
        _check_text(request.prompt, "prompt")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", "max_tokens")
    if len(request.stop) > STOPS_MAX:
        raise InvalidRequest(f"at most {STOPS_MAX} stop strings", "stop")
    for place, stop in enumerate(request.stop):
        _check_text(stop, f"stop[{place}]")
        if not 1 <= len(stop) <= STOP_CHARS_MAX:
            raise InvalidRequest(f"a stop string has between 1 and {STOP_CHARS_MAX} characters", f"stop[{place}]")
    _check_sampling(request.sampling)


def check_embed(request: EmbedRequest) -> None:
    """Raise `InvalidRequest` for anything that no model could honour."""
    if not 1 <= len(request.texts) <= TEXTS_MAX:
        raise InvalidRequest(f"give between 1 and {TEXTS_MAX} texts", "texts")
    for place, text in enumerate(request.texts):
        if not text:
            raise InvalidRequest("an empty text has no meaning to embed: leave it out", f"texts[{place}]")
        _check_text(text, f"texts[{place}]")


def _check_sampling(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.temperature) and 0 <= sampling.temperature <= TEMPERATURE_MAX):
        raise InvalidRequest(f"temperature must lie between 0 and {TEMPERATURE_MAX:g}", "temperature")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequest("top_p must be above 0 and at most 1", "top_p")
    if sampling.top_k < 0:
        raise InvalidRequest("top_k must be 0 (no limit) or more", "top_k")
    if sampling.seed is not None and not -SEED_MAX - 1 <= sampling.seed <= SEED_MAX:
        raise InvalidRequest("seed must fit in 64 bits, signed", "seed")


def _check_text(text: str, field: str) -> None:
    """A lone surrogate is no character: it can be neither tokenized nor sent on."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the text holds half of a surrogate pair, which is no character", field) from None
