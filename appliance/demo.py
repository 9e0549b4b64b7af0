"""`nukkad demo`: real requests in five languages, and the node's statement against what the caller counted itself."""

import json
import unicodedata
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from appliance.settings import Settings
from appliance.up import CHAT_MODEL, CUSTOMER, EMBED_MODEL, House, end_on_signals, house
from sync.price import MICRO_PER_PAISA, rupees

FAQ = (
    ("hours", "When is the shop open?", "From 8 in the morning to 9 in the evening, on Sundays until 2."),
    ("rice", "What does rice cost?", "Sona Masoori is ₹62 a kilo, basmati from ₹110."),
    ("delivery", "Do you deliver to the house?", "Yes, within 3 km, free of charge above ₹500."),
    ("upi", "How can I pay?", "In cash, by UPI or by card."),
    ("return", "Can I bring back spoiled goods?", "Yes, on the same day with the bill; you get your money back."),
)
QUESTIONS = {
    "hi": "दुकान कितने बजे खुलती है?",
    "ta": "அரிசி ஒரு கிலோ என்ன விலை?",
    "te": "సరుకులు ఇంటికి తెచ్చి ఇస్తారా?",
    "bn": "ইউপিআই দিয়ে টাকা দেওয়া যাবে?",
    "mr": "खराब माल परत घेता का?",
}
CHAT = "What is the capital of India?"

Counted = dict[tuple[str, str], int]  # (meter, unit) → quantity


@dataclass
class Count:
    """What a caller counts from its own side, knowing nothing of the box but the published prices."""

    rates: dict[str, dict[str, int]]  # micro-rupees per 1,000 units, by meter and unit
    units: Counted = field(default_factory=dict)
    cost: int = 0  # micro-rupees

    def add(self, meter: str, **units: int) -> None:
        for unit, quantity in units.items():
            self.units[meter, unit] = self.units.get((meter, unit), 0) + quantity
            self.cost += (quantity * self.rates.get(meter, {}).get(unit, 0) + 500) // 1000  # half up, per line


def points(text: str) -> int:
    """Code points after NFC: the one line that any caller can count with."""
    return len(unicodedata.normalize("NFC", text))


def demo(settings: Settings, as_json: bool) -> int:
    """0 when the statement equals the count to the code point and the micro-rupee."""
    console = Console(markup=False, emoji=False, highlight=False, stderr=as_json)
    end_on_signals()
    with house(settings, console) as ready:
        console.print(f"Box and node are ready ({ready.seconds:.1f} s).")
        ready.ask("sync")
        before = _statement(ready)
        count = Count(ready.ask("node", "prices")["rates"])
        _embed(console, ready, count)
        _search(console, ready, count)
        _chat(console, ready, count)
        ready.ask("sync")
        billed = _difference(before, _statement(ready))
    equal = _is_equal(count, billed)
    if as_json:
        print(json.dumps({"equal": equal, "counted_micro_rupees": count.cost, "billed_micro_rupees": billed.cost}))
    else:
        _show(console, count, billed, equal)
    return 0 if equal else 1


def _embed(console: Console, ready: House, count: Count) -> None:
    """One call with all five questions, one call for each of them."""
    client = OpenAI(base_url=f"{ready.url}/v1", api_key=ready.key)
    together = client.embeddings.create(model=EMBED_MODEL, input=list(QUESTIONS.values()))
    count.add("embedding", requests=1, points_in=sum(map(points, QUESTIONS.values())))
    for language, question in QUESTIONS.items():
        client.embeddings.create(model=EMBED_MODEL, input=question)
        count.add("embedding", requests=1, points_in=points(question))
        console.print(f"{language}: {question} → a vector of {len(together.data[0].embedding)} numbers")


def _search(console: Console, ready: House, count: Count) -> None:
    """A small shop's questions and answers, asked in five languages."""
    place = f"/v1/collections/demo-{uuid4().hex[:12]}"
    headers = {"Authorization": f"Bearer {ready.key}"}
    with httpx.Client(base_url=ready.url, headers=headers, timeout=60, trust_env=False) as client:
        entries = [{"id": name, "question": question, "answer": answer} for name, question, answer in FAQ]
        client.put(place, json={"entries": entries}).raise_for_status()
        count.add("embedding", requests=1, points_in=sum(points(entry[1]) + points(entry[2]) for entry in FAQ))
        for language, question in QUESTIONS.items():
            asked = {"collection": place.rpartition("/")[2], "query": question, "limit": 1}
            found = client.post("/v1/tasks/search", json=asked).raise_for_status().json()
            count.add("search", requests=1, points_in=points(question))
            console.print(f"{language}: {question} → {found['results'][0]['answer']}")
        client.delete(place).raise_for_status()


def _chat(console: Console, ready: House, count: Count) -> None:
    """A streamed answer, counted as it arrives."""
    client = OpenAI(base_url=f"{ready.url}/v1", api_key=ready.key)
    stream = client.chat.completions.create(
        model=CHAT_MODEL, messages=[{"role": "user", "content": CHAT}], max_tokens=60, temperature=0, stream=True
    )
    answer = ""
    console.print(f"{CHAT} → ", end="")
    for chunk in stream:
        piece = chunk.choices[0].delta.content or ""
        answer += piece
        console.print(piece, end="", soft_wrap=True)
    console.print()
    count.add("chat", requests=1, points_in=points(CHAT), points_out=points(answer))


def _statement(ready: House) -> dict[str, Any]:
    return ready.ask("node", "statement", CUSTOMER)


def _difference(before: dict[str, Any], after: dict[str, Any]) -> Count:
    """What the node billed in between."""
    billed = Count({}, cost=after["usage"] - before["usage"])
    for sign, statement in ((-1, before), (1, after)):
        for line in statement["lines"]:
            billed.add(line["meter"], **{line["unit"]: sign * line["quantity"]})
    billed.cost = after["usage"] - before["usage"]
    return billed


def _is_equal(count: Count, billed: Count) -> bool:
    """Every unit that a caller can count, and the money. Tokens are the box's own information and are free."""
    counted = {
        name: quantity for name, quantity in billed.units.items() if not name[1].startswith("tokens") and quantity
    }
    return count.units == counted and count.cost == billed.cost


def _show(console: Console, count: Count, billed: Count, equal: bool) -> None:
    table = Table(title=f"The node's statement of these calls, customer {CUSTOMER}")
    for head in ("meter", "unit", "counted by the caller", "billed by the node", "₹ per 1,000"):
        table.add_column(head, justify="left" if head in ("meter", "unit") else "right")
    for meter, unit in sorted(count.units):
        rate = count.rates.get(meter, {}).get(unit)
        figures = [str(side.units.get((meter, unit), 0)) for side in (count, billed)]
        table.add_row(meter, unit, *figures, rupees(rate) if rate else "free")
    table.add_section()
    table.add_row("total ₹", "", rupees(count.cost), rupees(billed.cost), "")
    table.add_row(
        "in paise", "", *(str((side.cost + MICRO_PER_PAISA // 2) // MICRO_PER_PAISA) for side in (count, billed)), ""
    )
    console.print(table)
    console.print("Equal, to the code point and the paisa." if equal else "NOT EQUAL: please report this.")
