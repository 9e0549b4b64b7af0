"""A package made ready to serve: opened, checked against its own self-test, and able to turn requests into work."""

import itertools
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.engine.answer import Answer, Characters
from appliance.engine.chat import ChatTemplate
from appliance.engine.decoder import Row
from appliance.engine.encoder import Batcher, Embedding, Encodes
from appliance.engine.fixed_encoder import make_encoder
from appliance.engine.grammar import Grammars
from appliance.engine.lanes import OpenLane, lanes_by_speed, open_lane
from appliance.engine.placement import read_placement
from appliance.engine.prefixes import Prefixes
from appliance.engine.protocol import (
    EmbedRequest,
    GenerateRequest,
    InvalidRequest,
    ModelInfo,
    TooLong,
    UnknownModel,
)
from appliance.engine.providers import CPU, find_provider
from appliance.engine.sampling import Report, Sampler, fresh_seed
from appliance.engine.scheduler import Generation, Scheduler, Steps
from appliance.engine.session import count_nodes, open_session
from appliance.engine.settings import EngineSettings
from appliance.engine.tokens import Tokenizers
from appliance.engine.tools import CLOSE, OPEN, Calls
from appliance.engine.wire import FRAME_BYTES_MAX
from models.manifest import Manifest

COSINE_MIN = 0.98
CONTEXT_OF_PROMPT = 8  # Prompt tokens that a continuation's text is decoded with.


class SelfTestError(Exception):
    """The package does not compute what its maker saw: it must not serve."""


class Package(Protocol):
    """An installed package, as the store gives it."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def digest(self) -> bytes: ...

    @property
    def folder(self) -> Path: ...


class ServedDecoder:
    def __init__(self, package: Package, settings: EngineSettings, tokenizers: Tokenizers) -> None:
        """Raises ValueError, SelfTestError, ProviderError or what ONNX Runtime raises for a graph it cannot open."""
        manifest = package.manifest
        stops = manifest.chat.stop_token_ids if manifest.chat else ()
        self.info = _info(package, settings)
        self._tokens = tokenizers.open(package.folder / manifest.tokenizer, stops)
        self._start = [] if manifest.bos_token_id is None else [manifest.bos_token_id]
        self._stop_tokens = frozenset(stops)
        self._grammars = Grammars(self._tokens.text, stops)
        self._vocab = manifest.geometry.vocab
        self._chat: ChatTemplate | None = None
        if manifest.chat:
            bos, eos = self._tokens.spell(manifest.bos_token_id), self._tokens.spell(stops[0])
            self._chat = ChatTemplate(manifest.chat.template, self._tokens, bos, eos)
        lane = self._open(package, settings)
        self.info = replace(_info(package, settings), lane=lane.name)
        for slot in range(settings.slots):
            lane.cache.forget(slot)
        step = 1 if lane.decoder.mixes else settings.prefill_tokens
        self._prefixes = Prefixes(lane.cache, settings.cache_bytes, step, apart=not settings.share_prefixes)
        self.stepper = Scheduler(lane.decoder, self._prefixes, settings.prefill_tokens)

    def _open(self, package: Package, settings: EngineSettings) -> OpenLane:
        """The fastest lane that answers as the default one did for its maker; another may round otherwise."""
        failure: SelfTestError | None = None
        for name in lanes_by_speed(package.folder, package.digest, package.manifest, settings):
            lane = open_lane(package.folder, package.manifest, name, settings, self.info.context_tokens)
            try:
                self._test(package.manifest, lane.decoder, settings.prefill_tokens)
            except SelfTestError as error:
                failure = failure or error
            else:
                return lane
        assert failure
        raise failure

    def prepare(self, call: int, request: GenerateRequest) -> Generation:
        """Raises TooLong, InvalidRequest, UnknownModel."""
        field = "messages" if request.messages else "prompt"
        room = self.info.context_tokens - 1
        prompt = self._encode(request, room)
        if prompt is None or len(prompt) > room:
            raise TooLong(f"it leaves no room in the model's {room + 1} tokens: shorten it", field)
        if not prompt:
            raise InvalidRequest("there is nothing to go on from: give some text", field)
        room = self.info.context_tokens - len(prompt)
        limit = room if request.max_tokens is None else request.max_tokens
        if limit > room:
            raise TooLong(f"after the {len(prompt)} tokens given, at most {room} fit: ask for fewer", "max_tokens")
        if len(prompt) + limit > self._prefixes.tokens_max:
            most = self._prefixes.tokens_max - len(prompt)
            raise TooLong(f"the memory for the cache holds {most} tokens after these: ask for fewer", "max_tokens")
        context = () if request.messages else prompt[-CONTEXT_OF_PROMPT:]
        seed = fresh_seed() if request.sampling.seed is None else request.sampling.seed
        return Generation(
            call,
            prompt,
            limit,
            self._sampler(request, seed),
            self._answer(request, Characters(self._tokens.decode, context), prompt, seed),
            self._stop_tokens,
            request.owner,
        )

    def _sampler(self, request: GenerateRequest, seed: int) -> Sampler:
        for token, _ in request.sampling.logit_bias:
            if token >= self._vocab:
                raise InvalidRequest(f"{token} is no token: {self.info.name} has {self._vocab}", "logit_bias")
        report = None if request.logprobs is None else Report(request.logprobs, self._grammars.spell)
        constraint = self._grammars.compile(request.grammar) if request.grammar else None
        if request.tools and request.tool_choice != "none":
            if {OPEN, CLOSE} & set(self._tokens.control_texts):
                raise InvalidRequest(f"{self.info.name} spells calls with control tokens: it takes no tools", "tools")
            parallel = request.parallel_tool_calls
            constraint = self._grammars.compile_calls(request.tools, request.tool_choice, parallel)
        return Sampler(request.sampling, seed, constraint, report)

    def _answer(self, request: GenerateRequest, characters: Characters, prompt: list[int], seed: int) -> Answer:
        if not request.tools or request.tool_choice == "none":
            return Answer(characters, request.stop)
        numbers = itertools.count()
        asked = sha256(f"{seed} {prompt}".encode())

        def new_id() -> str:
            """The same for the same seed and conversation, another one in its next turn."""
            number = asked.copy()
            number.update(f" {next(numbers)}".encode())
            return f"call_{number.hexdigest()[:24]}"

        return Calls(characters, request.stop, new_id)

    def _encode(self, request: GenerateRequest, room: int) -> list[int] | None:
        if request.messages is None:
            assert request.prompt is not None
            ids = self._tokens.encode(request.prompt, room)
            return None if ids is None else self._start + ids
        if self._chat is None:
            raise UnknownModel(f"{self.info.name} has no chat template: use completions", "model")
        size = sum(len(message.content) for message in request.messages)
        size += sum(len(call.arguments) for message in request.messages for call in message.tool_calls)
        size += sum(len(tool.description) + len(tool.parameters) for tool in request.tools)
        if self._tokens.too_long(size, room):
            return None
        return self._chat.encode(request.messages, request.tools)

    def _test(self, manifest: Manifest, decoder: Steps, chunk: int) -> None:
        for place, test in enumerate(manifest.self_test):
            ids = self._tokens.encode(test.text, self.info.context_tokens - 1)
            if not ids:
                raise SelfTestError(f"self_test[{place}].text is empty or does not fit in the context")
            ids = self._start + ids
            logits: NDArray[np.float32] = np.empty(0, dtype=np.float32)
            for start in range(0, len(ids), chunk):
                logits = decoder.run([Row(0, ids[start : start + chunk], start)])[0]
            if (first := int(logits.argmax())) != test.tokens[0]:
                raise SelfTestError(f"self_test[{place}] begins with token {first}, expected {test.tokens[0]}")


class ServedEncoder:
    def __init__(self, package: Package, settings: EngineSettings, tokenizers: Tokenizers) -> None:
        """Raises as `ServedDecoder` does."""
        manifest = package.manifest
        if manifest.embedding is None:
            raise ValueError("the manifest of an encoder must have `embedding`")
        self.info = _info(package, settings)
        self._prefixes = {
            "query": manifest.embedding.query_prefix,
            "passage": manifest.embedding.passage_prefix,
            None: "",
        }
        self._texts_max = FRAME_BYTES_MAX // 2 // (4 * manifest.embedding.dim)
        self._tokens = tokenizers.open(package.folder / manifest.tokenizer)
        session = open_session(package.folder / _graph(manifest), settings.provider, settings.threads)
        if settings.provider != CPU:
            self.info = replace(self.info, cpu_nodes=count_nodes(session).get(CPU, 0))
        encoder = make_encoder(session, find_provider(settings.provider).tokens)
        self._test(manifest, encoder)
        self.stepper = Batcher(encoder, self._tokens, self.info.context_tokens, settings.batch_tokens)

    def prepare(self, call: int, request: EmbedRequest) -> Embedding:
        """Raises InvalidRequest. A text that is too long is found when its turn comes."""
        if len(request.texts) > self._texts_max:
            raise InvalidRequest(f"at most {self._texts_max} texts of this model fit in one answer", "texts")
        prefix = self._prefixes[request.role]
        return Embedding(call, tuple(prefix + text for text in request.texts))

    def _test(self, manifest: Manifest, encoder: Encodes) -> None:
        for place, test in enumerate(manifest.self_test):
            ids = self._tokens.encode(test.text, self.info.context_tokens, framed=True)
            if ids is None:
                raise SelfTestError(f"self_test[{place}].text does not fit in the context")
            expected = np.array(test.vector, dtype=np.float32)
            cosine = float(encoder.run([ids])[0] @ expected / max(float(np.linalg.norm(expected)), 1e-12))
            if not cosine >= COSINE_MIN:
                raise SelfTestError(f"self_test[{place}] has cosine {cosine:.4f}, below {COSINE_MIN}")


Served = ServedDecoder | ServedEncoder


def load(package: Package, settings: EngineSettings, tokenizers: Tokenizers) -> Served:
    """On the provider that the settings put it on, after its self-test. Raises as `ServedDecoder` does."""
    provider = read_placement(settings.provider).of(package.manifest.name, package.manifest.family)
    settings = replace(settings, provider=provider.name)
    if package.manifest.family == "decoder":
        return ServedDecoder(package, settings, tokenizers)
    return ServedEncoder(package, settings, tokenizers)


def _graph(manifest: Manifest) -> str:
    return manifest.lanes[manifest.default_lane].graph


def _info(package: Package, settings: EngineSettings) -> ModelInfo:
    manifest = package.manifest
    tokens = find_provider(settings.provider).tokens or manifest.context_tokens
    return ModelInfo(
        manifest.name,
        package.digest,
        manifest.family,
        manifest.tasks,
        manifest.languages,
        min(manifest.context_tokens, settings.context_tokens, tokens),
        manifest.default_lane,
        settings.provider,
    )
