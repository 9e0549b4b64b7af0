"""Small real packages for the engine's tests: real graphs, real tokenizers, built in milliseconds.

`tiny-chat`    a random two-layer decoder over bytes: its answers depend on every token before.
`tiny-script`  a decoder that answers anything with the pieces of `SCRIPT` in order and then stops.
`tiny-embed`   means of random byte vectors, of unit length.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from appliance.engine.cache import Cache
from appliance.engine.decoder import Decoder, Row, plain_tile
from appliance.engine.encoder import Encoder
from appliance.engine.session import open_session
from models.layout import pack
from models.manifest import Chat, Embedding, Geometry, Lane, Manifest, SelfTest, write_manifest
from models.store import Installed, Store

Floats = NDArray[np.float32]

CONTEXT = 128
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|end|>", "<|im_start|>", "<|im_end|>", "[CLS]", "[SEP]")
END, IM_START, IM_END, CLS, SEP = range(256, 256 + len(SPECIALS))
# The first two characters are cut inside: no piece of theirs is whole by itself.
SCRIPT = (b"\xe0", b"\xa4\xb9", b"\xe0\xa4", b"\xbe", b" one", b" two", b" th", b"ree", b" four")
SCRIPT_TEXT = b"".join(SCRIPT).decode()

HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 16, 2
PASSAGE_PREFIX, QUERY_PREFIX = "passage: ", "query: "


def byte_letters() -> list[str]:
    """How byte-level tokenizers spell each byte: itself if printable, else a letter from 256 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def tiny_tokenizer(pieces: Sequence[bytes] = ()) -> Tokenizer:
    """One token per byte (id = byte), the specials, then the longer `pieces`, which only a model can produce."""
    letters = byte_letters()
    words = [*letters, *SPECIALS, *("".join(letters[byte] for byte in piece) for piece in pieces if len(piece) > 1)]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
    return tokenizer


def script_tokens() -> list[int]:
    """Ids of SCRIPT's pieces, then the stop token."""
    longer = iter(range(256 + len(SPECIALS), 512))
    return [*(piece[0] if len(piece) == 1 else next(longer) for piece in SCRIPT), IM_END]


class GraphBuilder:
    """Collects nodes and weights of one graph."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.weights: list[object] = []

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def save(self, path: Path, inputs: list[object], outputs: list[object]) -> None:
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))


def save_decoder(path: Path, embedding: Floats, layers: list[dict[str, Floats]], head: Floats) -> None:
    """A decoder without MLPs. `layers`: q, k, v, o each; the inputs and outputs of every packed decoder graph."""
    build = GraphBuilder()
    angles = np.outer(np.arange(CONTEXT), 10000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
    build.weight("cos", np.cos(angles).astype(np.float32))
    build.weight("sin", np.sin(angles).astype(np.float32))
    build.weight("norm", np.ones(embedding.shape[1], np.float32))
    build.weight("flat", np.array([-1, HEADS * HEAD_DIM], np.int64))
    stream = build.node("Gather", [build.weight("embedding", embedding), "input_ids"], "stream")
    for place, weights in enumerate(layers):
        names = {part: build.weight(f"{part}{place}", value) for part, value in weights.items()}
        normed = build.node("SimplifiedLayerNormalization", [stream, "norm"], f"normed{place}", axis=-1, epsilon=1e-5)
        packed = [build.node("MatMul", [normed, names[part]], f"{part}{place}.packed") for part in "qkv"]
        padded = [build.node("Gather", [tokens, "unpack_idx"], f"{tokens}.padded") for tokens in packed]
        past = [f"past_key_values.{place}.{part}" for part in ("key", "value")]
        present = [f"present.{place}.{part}" for part in ("key", "value")]
        attention = helper.make_node(
            "GroupQueryAttention",
            [*padded, *past, "seqlens_k", "total_sequence_length", "cos", "sin", *[""] * 7, "query_seqlens"],
            [f"attended{place}", *present],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        )
        build.nodes.append(attention)
        flat = build.node("Reshape", [f"attended{place}", "flat"], f"flat{place}")
        tokens = build.node("Gather", [flat, "pack_idx"], f"packed{place}")
        added = build.node("MatMul", [tokens, names["o"]], f"added{place}")
        stream = build.node("Add", [stream, added], f"stream{place}")
    normed = build.node("SimplifiedLayerNormalization", [stream, "norm"], "normed", axis=-1, epsilon=1e-5)
    chosen = build.node("Gather", [normed, "logit_idx"], "chosen")
    build.node("MatMul", [chosen, build.weight("head", head)], "logits")
    ports = _decoder_ports(len(layers), head.shape[1])
    build.save(path, *ports)


def _decoder_ports(layers: int, vocab: int) -> tuple[list[object], list[object]]:
    value = helper.make_tensor_value_info
    rows = {"input_ids": ["T"], "unpack_idx": ["B", "S"], "pack_idx": ["T"], "logit_idx": ["R"]}
    inputs: list[object] = [value(name, TensorProto.INT64, shape) for name, shape in rows.items()]
    inputs += [value(name, TensorProto.INT32, ["B"]) for name in ("query_seqlens", "seqlens_k")]
    inputs.append(value("total_sequence_length", TensorProto.INT32, []))
    outputs: list[object] = [value("logits", TensorProto.FLOAT, ["R", vocab])]
    for place in range(layers):
        for part in ("key", "value"):
            shape = ["B", KV_HEADS, "C", HEAD_DIM]
            inputs.append(value(f"past_key_values.{place}.{part}", TensorProto.FLOAT, shape))
            outputs.append(value(f"present.{place}.{part}", TensorProto.FLOAT, shape))
    return inputs, outputs


def save_encoder(path: Path, table: Floats) -> None:
    """Means of `table` rows at unit length; what the promises of every packed encoder graph come down to."""
    build = GraphBuilder()
    build.weight("axis", np.array([1], np.int64))
    rows = build.node("Gather", [build.weight("table", table), "input_ids"], "rows")
    # Position and packing are used as a real encoder uses them, so that wrong ones show.
    places = build.node("Gather", [build.weight("places", table[::-1]), "position_ids"], "place_rows")
    stream = build.node("Mul", [rows, places], "stream")
    build.node("Gather", [stream, "unpack_idx"], "padded")
    build.weight("shape", np.array([-1, table.shape[1]], np.int64))
    packed = build.node("Gather", [build.node("Reshape", ["padded", "shape"], "lines"), "pack_idx"], "packed")
    again = build.node("Gather", [packed, "unpack_idx"], "again")
    longest = build.node("Shape", ["unpack_idx"], "longest", start=1, end=2)
    build.weight("zero", np.array(0, np.int64))
    build.weight("one", np.array(1, np.int64))
    scalar = build.node("Squeeze", [longest], "longest_scalar")
    build.node("Range", ["zero", scalar, "one"], "steps")
    wide = build.node("Cast", ["lengths"], "lengths64", to=TensorProto.INT64)
    column = build.node("Unsqueeze", [wide, "axis"], "column")
    inside = build.node("Cast", [build.node("Less", ["steps", column], "inside")], "mask", to=TensorProto.FLOAT)
    build.weight("last", np.array([2], np.int64))
    kept = build.node("Mul", [again, build.node("Unsqueeze", [inside, "last"], "mask3")], "kept")
    total = build.node("ReduceSum", [kept, "axis"], "total", keepdims=0)
    build.node("LpNormalization", [total], "embedding", axis=-1, p=2)
    value = helper.make_tensor_value_info
    inputs: list[object] = [value(name, TensorProto.INT64, ["T"]) for name in ("input_ids", "position_ids", "pack_idx")]
    inputs.append(value("unpack_idx", TensorProto.INT64, ["B", "S"]))
    inputs.append(value("lengths", TensorProto.INT32, ["B"]))
    build.save(path, inputs, [value("embedding", TensorProto.FLOAT, ["B", table.shape[1]])])


def write_chat(folder: Path, name: str = "tiny-chat", seed: int = 0, template: str = TEMPLATE) -> Path:
    random = np.random.default_rng(seed)
    hidden, width = 32, HEADS * HEAD_DIM
    vocab = 256 + len(SPECIALS)

    def draw(*shape: int) -> Floats:
        return random.standard_normal(shape, dtype=np.float32) * 0.5

    shapes = {"q": (hidden, width), "k": (hidden, KV_HEADS * HEAD_DIM), "v": (hidden, KV_HEADS * HEAD_DIM)}
    layers = [{part: draw(*shape) for part, shape in [*shapes.items(), ("o", (width, hidden))]} for _ in range(LAYERS)]
    folder.mkdir(parents=True)
    head = draw(hidden, vocab)
    head[:, 256:] = 0  # The best of 256 bytes always beats a special token: greedy answers run to their limit.
    save_decoder(folder / "model.fp32.onnx", draw(vocab, hidden), layers, head)
    return _write_decoder(folder, name, hidden, tiny_tokenizer(), template)


def write_script(folder: Path, name: str = "tiny-script") -> Path:
    tokenizer = tiny_tokenizer(SCRIPT)
    vocab = tokenizer.get_vocab_size()
    head = np.zeros((vocab, vocab), np.float32)
    script = script_tokens()
    head[:, script[0]] = 1
    for now, following in itertools.pairwise(script):
        head[now] = 0
        head[now, following] = 1
    width = HEADS * HEAD_DIM
    shapes = {"q": (vocab, width), "k": (vocab, KV_HEADS * HEAD_DIM), "v": (vocab, KV_HEADS * HEAD_DIM)}
    layer = {part: np.zeros(shape, np.float32) for part, shape in [*shapes.items(), ("o", (width, vocab))]}
    folder.mkdir(parents=True)
    save_decoder(folder / "model.fp32.onnx", np.eye(vocab, dtype=np.float32), [layer], head)
    return _write_decoder(folder, name, vocab, tokenizer, TEMPLATE, layers=1)


def write_embed(folder: Path, name: str = "tiny-embed", seed: int = 0) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.enable_truncation(8)  # As many published tokenizers have it; the engine must not cut anything.
    tokenizer.enable_padding(length=8)
    vocab, dim = tokenizer.get_vocab_size(), 24
    folder.mkdir(parents=True)
    save_encoder(
        folder / "model.fp32.onnx", np.random.default_rng(seed).standard_normal((vocab, dim), dtype=np.float32)
    )
    text = "नमस्ते"
    encoder = Encoder(open_session(folder / "model.fp32.onnx", "CPUExecutionProvider", 1))
    vector = encoder.run([[CLS, *text.encode(), SEP]])[0]
    manifest = Manifest(
        name=name,
        version="1",
        family="encoder",
        tasks=("embedding",),
        languages=("hi",),
        licence="Apache-2.0",
        source="made by a test",
        context_tokens=CONTEXT,
        geometry=Geometry(layers=1, hidden=dim, heads=1, kv_heads=1, head_dim=dim, vocab=vocab),
        lanes={"fp32": Lane(graph="model.fp32.onnx", weights=())},
        default_lane="fp32",
        tokenizer="tokenizer.json",
        embedding=Embedding(dim=dim, query_prefix=QUERY_PREFIX, passage_prefix=PASSAGE_PREFIX),
        self_test=(SelfTest(text=text, vector=tuple(float(value) for value in vector)),),
    )
    return _finish(folder, manifest, tokenizer)


def _write_decoder(
    folder: Path, name: str, hidden: int, tokenizer: Tokenizer, template: str, layers: int = LAYERS
) -> Path:
    vocab = tokenizer.get_vocab_size()
    text = "The shop opens at"
    cache = Cache(layers, 1, KV_HEADS, CONTEXT, plain_tile(HEAD_DIM))
    decoder = Decoder(open_session(folder / "model.fp32.onnx", "CPUExecutionProvider", 1), cache, vocab)
    first = int(decoder.run([Row(0, list(text.encode()), 0)])[0].argmax())
    manifest = Manifest(
        name=name,
        version="1",
        family="decoder",
        tasks=("chat", "completion"),
        languages=("hi", "en"),
        licence="Apache-2.0",
        source="made by a test",
        context_tokens=CONTEXT,
        geometry=Geometry(layers=layers, hidden=hidden, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, vocab=vocab),
        lanes={"fp32": Lane(graph="model.fp32.onnx", weights=())},
        default_lane="fp32",
        tokenizer="tokenizer.json",
        chat=Chat(template=template, stop_token_ids=(END, IM_END)),
        self_test=(SelfTest(text=text, tokens=(first,)),),
    )
    return _finish(folder, manifest, tokenizer)


def _finish(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Path:
    write_manifest(folder, manifest)
    tokenizer.save(str(folder / manifest.tokenizer))
    (folder / "card.json").write_text("{}")
    (folder / "card.md").write_text("# tiny\n")
    return folder


def install(store: Path, *folders: Path) -> list[Installed]:
    """Into a real store, and active. The store's check of strangers' graphs is left out: these are our own."""
    installed = []
    for folder in folders:
        layout = folder.with_name(folder.name + ".layout")
        pack(folder, layout)
        package = Store(store, inspect=lambda _folder, _manifest: None).install(layout)
        Store(store).activate(package.manifest.name, package.digest)
        installed.append(package)
    return installed


def install_all(store: Path, work: Path) -> list[Installed]:
    """The three of them."""
    return install(store, write_chat(work / "chat"), write_script(work / "script"), write_embed(work / "embed"))
