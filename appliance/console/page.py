"""The page as HTML. Everything from outside is escaped; its script only renews figures, and the page works without."""

from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from appliance.console.view import View
from appliance.console.words import LANGUAGES, Words, texts

# Nothing is loaded from elsewhere, nothing runs that the box did not send, nobody may frame the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FILES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def render(view: View, words: Words, base_url: str) -> str:
    """`base_url` is the address under which the visitor reached the box, without a slash at its end."""
    languages = [(code, texts(code)["language"]) for code in LANGUAGES]
    examples = {"curl": curl(view, base_url), "python": python(view, base_url)}
    return _template().render(view=view, words=words, base_url=base_url, languages=languages, **examples)


def curl(view: View, base_url: str) -> str:
    return f"""\
curl {base_url}/v1/embeddings \\
  -H "Authorization: Bearer $NUKKAD_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{view.vector_model}", "input": "दूध का भाव क्या है?"}}'"""


def python(view: View, base_url: str) -> str:
    """A chat where a model can chat, a vector otherwise."""
    client = f"""\
from openai import OpenAI

client = OpenAI(base_url="{base_url}/v1", api_key="YOUR KEY")
"""
    if view.chat_model is None:
        return (
            client
            + f"""\
answer = client.embeddings.create(
    model="{view.vector_model}",
    input="दूध का भाव क्या है?",
)
print(len(answer.data[0].embedding))"""
        )
    return (
        client
        + f"""\
answer = client.chat.completions.create(
    model="{view.chat_model}",
    messages=[{{"role": "user", "content": "What is the capital of India?"}}],
    max_tokens=60,
    temperature=0,
)
print(answer.choices[0].message.content)"""
    )


def read(name: str) -> bytes:
    """One of FILES."""
    return files(__package__).joinpath(name).read_bytes()


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files(__package__).joinpath("page.jinja").read_text("utf-8"))
