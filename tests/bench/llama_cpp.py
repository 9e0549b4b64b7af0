"""llama.cpp on one GGUF file: its own programs measure prefill, decoding and perplexity; its server answers."""

import hashlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.bench import loads

READY_S = 60.0
# Its own ways of guessing from the text, with its defaults (12 tokens must recur) and with settings for short quotes.
LOOKUPS = (
    ("--spec-type", "ngram-simple"),
    ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "7"),
    ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "16"),
    ("--spec-type", "ngram-map-k", "--spec-ngram-map-k-size-n", "4", "--spec-ngram-map-k-size-m", "7"),
    ("--spec-type", "ngram-map-k4v", "--spec-ngram-map-k4v-size-n", "4", "--spec-ngram-map-k4v-size-m", "7"),
    ("--spec-type", "ngram-mod"),
    ("--spec-type", "ngram-cache"),
)
_PERPLEXITY = re.compile(r"Final estimate: PPL = ([0-9.]+)")


class PeerFailed(Exception):
    """A peer's program ended with an error, or said nothing that can be read. The message says what it said."""


@dataclass(frozen=True)
class LlamaCpp:
    """`name`: as tables show it. `programs`: the folder of llama-bench and the others."""

    name: str
    programs: Path
    model: Path
    threads: int

    def version(self) -> str:
        done = self._run("llama-server", ["--version"], model=False)
        return " ".join((done.stdout + done.stderr).split())

    def flags(self) -> str:
        return f"-t {self.threads} -tb {self.threads}, GGML_NATIVE=ON, else its defaults"

    def perplexity(self, text: Path) -> float:
        """Kept beside the model, for it takes long and the same text always gives the same."""
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        kept = self.model.with_suffix(".perplexity.json")
        known: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if digest not in known:
            known[digest] = self._perplexity(text)
            kept.write_text(json.dumps(known), encoding="utf-8")
        return known[digest]

    def _perplexity(self, text: Path) -> float:
        done = self._run("llama-perplexity", ["-f", str(text), "-c", str(loads.WINDOW), "-b", "2048"])
        found = _PERPLEXITY.search(done.stdout + done.stderr)
        if not found:
            raise PeerFailed(f"llama-perplexity said no perplexity: {done.stderr[-300:]}")
        return float(found[1])

    def prefill(self, counts: Sequence[int]) -> dict[int, float]:
        """Tokens per second by length of the prompt."""
        lengths = ",".join(str(count) for count in counts)
        done = self._run("llama-bench", ["-p", lengths, "-n", "0", "-r", "3", "-o", "json"])
        return {int(row["n_prompt"]): float(row["avg_ts"]) for row in json.loads(done.stdout)}

    def decode(self, streams: Sequence[int]) -> dict[int, float]:
        """Tokens per second of all streams together, by their number."""
        options = ["-c", "8192", "-npp", str(loads.PROMPT), "-ntg", str(loads.ANSWER)]
        options += ["-npl", ",".join(str(count) for count in streams), "--output-format", "jsonl"]
        done = self._run("llama-batched-bench", options)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {int(row["pl"]): float(row["speed_tg"]) for row in rows}

    @contextmanager
    def serving(self, lookup: Sequence[str] = (), slots: int = 1) -> Iterator[str]:
        """Address of its server, which ends with the block."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(self.programs / "llama-server"), "-m", str(self.model), "-c", str(2048 * slots)]
        command += ["-np", str(slots), "-t", str(self.threads), "-tb", str(self.threads)]
        command += ["--port", str(port), *lookup]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(url, server)
                yield url
            finally:
                server.terminate()

    def grounded(self, url: str) -> float:
        """Tokens per second of whole calls, as `ours.Lane.grounded` asks them."""
        tokens, seconds = 0, 0.0
        with httpx.Client(timeout=120) as client:
            for question in loads.QUESTIONS:
                messages = [
                    {"role": "system", "content": loads.INSTRUCTION},
                    {"role": "user", "content": f"{loads.price_list()}\n\n{question}"},
                ]
                body = {
                    "messages": messages,
                    "temperature": 0,
                    "max_tokens": loads.GROUNDED_ANSWER,
                    "cache_prompt": False,
                }
                start = time.perf_counter()
                answer = client.post(f"{url}/v1/chat/completions", json=body).raise_for_status().json()
                seconds += time.perf_counter() - start
                tokens += int(answer["usage"]["completion_tokens"])
        return tokens / seconds

    def _run(self, program: str, options: Sequence[str], model: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(self.programs / program), *options]
        if model:
            command += ["-m", str(self.model), "-t", str(self.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise PeerFailed(f"{program} ended with {done.returncode}: {done.stderr[-300:]}")
        return done


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise PeerFailed(f"llama-server ended with {server.returncode} before it was ready")
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise PeerFailed(f"llama-server was not ready within {READY_S:.0f} s")
