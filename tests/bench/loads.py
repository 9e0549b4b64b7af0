"""What is measured, and the texts it is measured with: Python's own documentation, which every Python carries."""

from pydoc_data.topics import topics

from tests.bench.statistics import Load

PREFILLS = (64, 512)
STREAMS = (1, 4, 8, 16)
PROMPT, ANSWER = 128, 64  # Tokens of each stream when decoding is measured.
GROUNDED_ANSWER = 160
PREFIX = 1000  # Tokens that two prompts begin with alike.
NEAR, FAR = 128, 4000  # Tokens of context between which decoding slows down.
WINDOW = 512  # Tokens of one window of the perplexity; its second half is scored.

PREFILL = {count: Load(f"prefill, {count} tokens", "tokens/s", 1.6) for count in PREFILLS}
DECODE = {n: Load(f"decode, {n} stream{'s' * (n > 1)}", "tokens/s", 1.1 if n == 1 else 1.6) for n in STREAMS}
GROUNDED = Load("grounded answer, speculation on", "tokens/s of the whole call", 1.6)
GROUNDED_LOOKUP = Load("grounded answer, both with lookup", "tokens/s of the whole call", 1.0)
FIRST_TOKEN = Load(f"first token, repeated {PREFIX}-token prefix", "ms", 10, less_is_better=True)
LONG = Load(f"decode at {FAR} tokens of context", "tokens/s", 0.6)
QUALITY = Load("perplexity", "perplexity", 1 / 1.01, less_is_better=True)

_PERPLEXITY_TOPICS = ("execmodel", "import", "naming")


def perplexity_text() -> str:
    """Some 5,000 tokens of English; no lane is calibrated or gated on it."""
    return "\n".join(topics[name] for name in _PERPLEXITY_TOPICS)


def words() -> str:
    """Some 200,000 tokens to cut prompts from."""
    return " ".join(topics[name] for name in sorted(topics))


def price_list() -> str:
    """About 600 tokens that answers can be quoted from."""
    makers = ("Basmati", "Toor", "Urad", "Organic", "Fresh", "Golden")
    goods = (("rice", "kg"), ("dal", "kg"), ("oil", "litre"), ("flour", "kg"), ("sugar", "packet"))
    return "\n".join(
        f"{5 * i + j + 1}. {maker} {good} - {20 + 7 * i + j} rupees per {unit}"
        for i, maker in enumerate(makers)
        for j, (good, unit) in enumerate(goods)
    )


QUESTIONS = (
    "Repeat the list of items 1 to 12 exactly.",
    "What is the price of Urad oil, Organic flour and Fresh rice? Quote the lines.",
    "Write the full price list again.",
)
INSTRUCTION = "You are a shop helper. Answer from the price list."
