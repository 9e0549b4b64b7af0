"""The packages of a store as people read them."""

from typing import Any

from models.errors import PackageError
from models.store import Store


def shown(store: Store) -> list[dict[str, Any]]:
    """Every installed package and whether it serves; a damaged one tells what is wrong with it."""
    active: dict[bytes, str] = {}
    damaged: list[dict[str, Any]] = []
    for name in store.names():
        try:
            active[store.current(name).digest] = name
        except PackageError as error:
            damaged.append({"name": name, "active": True, "damaged": str(error)})
    installed = [
        {
            "name": package.name,
            "version": package.manifest.version,
            "digest": package.digest.hex(),
            "tasks": list(package.manifest.tasks),
            "languages": list(package.manifest.languages),
            "licence": package.manifest.licence,
            "active": package.digest in active,
        }
        for package in store.installed()
    ]
    return installed + damaged
