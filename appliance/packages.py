"""The packages of a store as people read them."""

from typing import Any

from models.errors import PackageError
from models.store import Store


def shown(store: Store) -> list[dict[str, Any]]:
    """Every installed package and whether it serves; a damaged one tells what is wrong with it."""
    installed, damaged = store.installed()
    there = {package.digest for package in installed} | {package.digest for package in damaged}
    serving: dict[bytes, str] = {}
    faults: list[dict[str, Any]] = []
    for name in store.names():
        try:
            digest = store.serving(name)
            if digest not in there:
                store.current(name)  # It is gone; this says so.
            serving[digest] = name
        except PackageError as error:
            faults.append({"name": name, "active": True, "damaged": str(error)})
    return [
        *(
            {
                "name": package.name,
                "version": package.manifest.version,
                "digest": package.digest.hex(),
                "tasks": list(package.manifest.tasks),
                "languages": list(package.manifest.languages),
                "licence": package.manifest.licence,
                "active": package.digest in serving,
            }
            for package in installed
        ),
        *(
            {
                "name": serving.get(package.digest),
                "digest": package.digest.hex(),
                "active": package.digest in serving,
                "damaged": str(package.error),
            }
            for package in damaged
        ),
        *faults,
    ]
