"""From a recipe to a folder of package files: fetch, read, lower, measure, describe."""

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from models.manifest import MANIFEST_FILE, Chat, Geometry, Lane, Manifest, SelfTest, list_faults, write_manifest
from quantize.card import print_card, write_card
from quantize.gate import WINDOW_TOKENS, Score, judge, score_decoder, score_encoder
from quantize.graphs.families import head_size
from quantize.graphs.parts import Graph, WeightsFile
from quantize.lanes import operators_of, shared_weights, write_lane
from quantize.progress import Progress, ignore_progress
from quantize.recipe import Recipe, RecipeError
from quantize.running import Decoder, Encoder
from quantize.sources.checkpoint import Checkpoint, SourceError
from quantize.sources.read import Sources, read_source
from quantize.texts import read_texts

TOKENIZER_FILE = "tokenizer.json"
SELF_TEST_TOKENS = 8
_SELF_TEST_CAPACITY = 1024
_LICENCES = Path(__file__).parent / "licences"


def build(recipe: Recipe, out: Path, cache: Path, progress: Progress = ignore_progress, threads: int = 2) -> Path:
    """Makes the package folder `out` (a package standing there is replaced; anything else is refused) and returns it.

    `out` appears complete or not at all. The same recipe gives the same bytes on the same kind of processor; weights
    and graphs are the same everywhere. Raises RecipeError, SourceError, BelowThreshold.
    """
    if out.exists() and not (out / MANIFEST_FILE).is_file():
        raise RecipeError(f"{out}: is there and is no package; choose another place")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=out.parent) as scratch:
        folder = Path(scratch) / "package"
        folder.mkdir()
        checkpoint, sources = read_source(recipe, Path(scratch), cache, progress)
        _Workshop(recipe, checkpoint, folder, Path(scratch), progress, threads).make(sources)
        if out.exists():
            out.rename(Path(scratch) / "replaced")
        folder.rename(out)
    return out


@dataclass(frozen=True)
class _Workshop:
    recipe: Recipe
    checkpoint: Checkpoint
    folder: Path  # becomes the package
    scratch: Path  # graphs that are only measured
    progress: Progress
    threads: int

    def make(self, sources: Sources) -> None:
        recipe, texts = self.recipe, read_texts()
        tokenizer = self._tokenizer()
        # What can be refused is refused before the minutes of lowering and measuring.
        self._check_sizes()
        if not set(recipe.languages) & set(texts):
            raise RecipeError(f"languages: none of them has texts to measure on; there are {', '.join(texts)}")
        chat = self._chat(tokenizer)
        self._describe(chat, self._self_tests_to_be(), sources)
        prompts = self._prompts(tokenizer)
        (self.folder / "LICENSE").write_text(_licence(recipe), encoding="utf-8")
        graphs = self._lower()
        scores = self._measure(graphs, tokenizer, texts)
        verdicts = judge(scores, recipe.lanes)
        sizes: dict[str, int] = {lane: self._size(lane) for lane in recipe.shipped}
        manifest = self._describe(chat, self._self_tests(prompts, graphs[recipe.default_lane]), sources)
        card = write_card(
            recipe,
            sources=sources,
            sizes=sizes,
            scores=scores,
            verdicts=verdicts,
            tokenizer=tokenizer,
            texts=texts,
        )
        (self.folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (self.folder / "card.md").write_text(print_card(card), encoding="utf-8")
        write_manifest(self.folder, manifest)

    def _lower(self) -> dict[str, Path]:
        """Graph files by lane: full precision first, then the recipe's."""
        recipe = self.recipe
        graphs: dict[str, Path] = {}
        lanes = ["fp32", *recipe.lanes]
        for folder, wanted in (
            (self.scratch, [lane for lane in lanes if lane not in recipe.shipped]),
            (self.folder, list(recipe.shipped)),
        ):
            with contextlib.ExitStack() as stack:
                names = sorted({shared_weights(lane) for lane in wanted})
                shared = {name: stack.enter_context(WeightsFile(folder / name)) for name in names}
                for lane in wanted:
                    self.progress("lowering", len(graphs) / len(lanes))
                    path = folder / f"model.{lane}.onnx"
                    with WeightsFile(folder / f"model.{lane}.weights") as own:
                        graph = Graph(f"{recipe.name} {lane}", shared[shared_weights(lane)], own)
                        write_lane(recipe.family, lane, graph, self.checkpoint)
                        graph.save(path)
                    graphs[lane] = path
        self.progress("lowering", 1.0)
        return {lane: graphs[lane] for lane in lanes}

    def _measure(
        self, graphs: Mapping[str, Path], tokenizer: Tokenizer, texts: Mapping[str, list[str]]
    ) -> dict[str, Score]:
        if self.recipe.family == "encoder":
            assert self.recipe.embedding is not None
            prefix = self.recipe.embedding.passage_prefix
            lines = [self._encode(tokenizer, prefix + line) for lines in texts.values() for line in lines]
            return dict(score_encoder(graphs, lines, self.threads, self.progress))
        ids = {language: self._encode(tokenizer, "\n".join(lines)) for language, lines in texts.items()}
        claimed = [language for language in self.recipe.languages if language in texts]
        return dict(
            score_decoder(
                graphs,
                self._geometry(),
                ids,
                claimed,
                start=self._start(),
                window=self._positions_up_to(WINDOW_TOKENS),
                threads=self.threads,
                progress=self.progress,
            )
        )

    def _tokenizer(self) -> Tokenizer:
        """Writes the package's tokenizer and opens it as the engine does: a text never holds control tokens."""
        try:
            document = plain_tokenizer(self.checkpoint.tokenizer)
            tokenizer = Tokenizer.from_str(document)
        except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself, whatever is wrong
            raise SourceError(f"{TOKENIZER_FILE}: not a tokenizer ({error})") from None
        (self.folder / TOKENIZER_FILE).write_text(document, encoding="utf-8")
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """As the engine does: an encoder's tokenizer frames the text, a decoder's adds nothing (see `_start`)."""
        return tokenizer.encode(text, add_special_tokens=self.recipe.family == "encoder").ids

    def _start(self) -> list[int]:
        """What stands before every text that a decoder is given."""
        bos = self._bos()
        return [] if bos is None else [bos]

    def _bos(self) -> int | None:
        if not self.recipe.prepend_bos:
            return None
        bos: int | None = self.checkpoint.config.get("bos_token_id")
        if bos is None:
            raise RecipeError("prepend_bos: the source's config has no bos_token_id")
        return bos

    def _check_sizes(self) -> None:
        asked, positions = self.recipe.context_tokens, self.checkpoint.setting("max_position_embeddings")
        if asked > positions:
            raise RecipeError(f"context_tokens: {asked}, but the model has only {positions} positions")
        embedding, hidden = self.recipe.embedding, self.checkpoint.setting("hidden_size")
        if embedding is not None and embedding.dim != hidden:
            raise RecipeError(f"embedding.dim: {embedding.dim}, but the model's vectors have {hidden} numbers")

    def _positions_up_to(self, count: int) -> int:
        """Tokens that a cache may hold: a decoder's graph has rotary rows for no more than the model's positions."""
        return min(count, int(self.checkpoint.setting("max_position_embeddings")))

    def _describe(self, chat: Chat | None, self_tests: tuple[SelfTest, ...], sources: Sources) -> Manifest:
        """Raises RecipeError by field."""
        try:
            return self._manifest(chat, self_tests, sources)
        except ValidationError as error:
            raise RecipeError(list_faults(error)) from None

    def _manifest(self, chat: Chat | None, self_tests: tuple[SelfTest, ...], sources: Sources) -> Manifest:
        recipe = self.recipe
        return Manifest(
            name=recipe.name,
            version=recipe.version,
            family=recipe.family,
            tasks=recipe.tasks,
            languages=recipe.languages,
            licence=recipe.licence,
            source="; ".join(source["file"] for source in sources),
            context_tokens=recipe.context_tokens,
            geometry=self._geometry(),
            lanes={
                lane: Lane(graph=f"model.{lane}.onnx", weights=self._weights(lane), operators=operators_of(lane))
                for lane in recipe.shipped
            },
            default_lane=recipe.default_lane,
            tokenizer=TOKENIZER_FILE,
            bos_token_id=self._bos(),
            chat=chat,
            embedding=recipe.embedding,
            self_test=self_tests,
        )

    def _geometry(self) -> Geometry:
        setting, config = self.checkpoint.setting, self.checkpoint.config
        return Geometry(
            layers=setting("num_hidden_layers"),
            hidden=setting("hidden_size"),
            heads=setting("num_attention_heads"),
            kv_heads=config.get("num_key_value_heads") or setting("num_attention_heads"),
            head_dim=head_size(self.checkpoint),
            vocab=setting("vocab_size"),
        )

    def _weights(self, lane: str) -> tuple[str, ...]:
        return (shared_weights(lane), f"model.{lane}.weights")

    def _size(self, lane: str) -> int:
        return sum((self.folder / name).stat().st_size for name in (f"model.{lane}.onnx", *self._weights(lane)))

    def _chat(self, tokenizer: Tokenizer) -> Chat | None:
        if self.recipe.chat is None:
            return None
        if self.checkpoint.chat_template is None:
            raise RecipeError('tasks: "chat" needs a chat template, and the source has none')
        stops = tuple(_token_id(tokenizer, name) for name in self.recipe.chat.stop_tokens)
        try:
            return Chat(template=self.checkpoint.chat_template, stop_token_ids=stops)
        except ValidationError as error:
            raise RecipeError(f"chat: {list_faults(error)}") from None

    def _prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The self-tests' texts as the engine will read them."""
        room = self.recipe.context_tokens
        if self.recipe.family == "decoder":
            room = min(room - 1, self._positions_up_to(_SELF_TEST_CAPACITY) - SELF_TEST_TOKENS)
        prompts = [self._start() + self._encode(tokenizer, text) for text in self.recipe.self_test]
        for place, prompt in enumerate(prompts):
            if not 1 <= len(prompt) <= room:
                raise RecipeError(f"self_test.{place}: {len(prompt)} tokens, where 1 to {room} can be tested with")
        return prompts

    def _self_tests_to_be(self) -> tuple[SelfTest, ...]:
        """With answers of the right form, for a manifest whose other fields are to be checked."""
        if self.recipe.embedding is not None:
            vector = (0.0,) * self.recipe.embedding.dim
            return tuple(SelfTest(text=text, vector=vector) for text in self.recipe.self_test)
        return tuple(SelfTest(text=text, tokens=(0,)) for text in self.recipe.self_test)

    def _self_tests(self, prompts: list[list[int]], graph: Path) -> tuple[SelfTest, ...]:
        self.progress("self-test", 0.0)
        if self.recipe.family == "encoder":
            vectors = Encoder(graph, self.threads).embed(prompts)
            tests = [
                SelfTest(text=text, vector=tuple(round(float(x), 5) for x in vector))
                for text, vector in zip(self.recipe.self_test, vectors, strict=True)
            ]
        else:
            capacity = self._positions_up_to(_SELF_TEST_CAPACITY)
            decoder = Decoder(graph, self._geometry(), 1, capacity, self.threads)
            answers = [decoder.greedy([prompt], SELF_TEST_TOKENS)[0] for prompt in prompts]  # alone, as when tested
            tests = [
                SelfTest(text=text, tokens=tuple(answer))
                for text, answer in zip(self.recipe.self_test, answers, strict=True)
            ]
        self.progress("self-test", 1.0)
        return tuple(tests)


def _token_id(tokenizer: Tokenizer, name: str) -> int:
    token = tokenizer.token_to_id(name)
    if token is None:
        raise RecipeError(f"chat.stop_tokens: the tokenizer has no token {name!r}")
    return token


def plain_tokenizer(document: str) -> str:
    """A tokenizer.json that neither cuts nor pads: what is too long must be refused, never shortened in silence."""
    content = json.loads(document)
    content["truncation"] = None
    content["padding"] = None
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _licence(recipe: Recipe) -> str:
    text = _LICENCES / f"{recipe.licence}.txt"
    if not text.is_file():
        known = ", ".join(sorted(path.stem for path in _LICENCES.glob("*.txt")))
        raise RecipeError(f"licence: no text of {recipe.licence!r} to put into the package; there are {known}")
    changes = "Changed by Nukkad: the weights were converted to ONNX and quantized; card.md says from what and how."
    return f"{recipe.copyright}\n{changes}\n\n{text.read_text(encoding='utf-8')}"
