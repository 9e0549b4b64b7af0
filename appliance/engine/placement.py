"""Which provider each package runs on, as the operator wrote it: one for all, or one for some.

`PROVIDER` puts every package on it; `NAME=PROVIDER,NAME=PROVIDER` those named, and a bare `PROVIDER` among them all the
others, which otherwise run on the processor. A package that cannot run where it was put does not serve: nothing else
is taken in its stead.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.engine.providers import CPU, Provider, ProviderError, find_provider


@dataclass(frozen=True)
class Placement:
    """`named` pairs packages with their provider; `others` is for all the rest."""

    named: Mapping[str, Provider]
    others: Provider

    def of(self, package: str, family: str) -> Provider:
        """Raises ProviderError if models of this family have not been seen to run right there."""
        provider = self.named.get(package, self.others)
        if family not in provider.families:
            raise ProviderError(
                f"{provider.name} has not been proven for a {family}: put it elsewhere, such as {package}={CPU}"
            )
        return provider

    @property
    def environment(self) -> str | None:
        """The engine environment that all of it runs in; None is the box's own."""
        return next(iter(_environments(self)), None)


def read_placement(text: str) -> Placement:
    """Raises ProviderError naming what cannot be used."""
    named: dict[str, Provider] = {}
    others: Provider | None = None
    for entry in text.split(","):
        package, equals, provider = (part.strip() for part in entry.rpartition("="))
        if not equals:
            if others is not None:
                raise ProviderError(f"two providers for all packages: {others.name} and {provider}")
            others = find_provider(provider)
        elif not package or package in named:
            raise ProviderError(f"{entry.strip()!r}: give each package one provider, as NAME=PROVIDER")
        else:
            named[package] = find_provider(provider)
    placement = Placement(named, others or find_provider(CPU))
    if len(wanted := _environments(placement)) > 1:
        raise ProviderError(f"the environments {' and '.join(sorted(wanted))} exclude each other: choose one")
    return placement


def _environments(placement: Placement) -> set[str]:
    return {each.environment for each in (*placement.named.values(), placement.others) if each.environment}
