"""Whether the node lives, and whether it can bill."""

from fastapi import APIRouter, Request

from sync.node.context import Node

router = APIRouter()


@router.get("/healthz")
async def say_alive() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def say_ready(request: Request) -> dict[str, str]:
    """503 (app.py) while the database is away."""
    node: Node = request.app.state.node
    with node.database.transaction() as connection:
        connection.execute("select 1")
    return {"status": "ready"}
