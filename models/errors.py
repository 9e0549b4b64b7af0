"""Everything this room refuses, as one tree.

PackageError
├── InvalidManifest      nukkad.json says something a box cannot honour
├── InvalidLayout        the OCI layout is not a model package, or has kinds of layers that are never taken
├── TamperedPackage      a file differs from what the package's manifest promises
├── UnsafeModel          the ONNX graph does, or may do, what a box does not let a package do
└── StoreError           the store cannot do what was asked in its present state
    ├── NotInstalled
    └── NothingToRollBack
"""


class PackageError(Exception):
    """Base. The message names the file or field at fault and what to do about it."""


class InvalidManifest(PackageError):
    pass


class InvalidLayout(PackageError):
    pass


class TamperedPackage(PackageError):
    pass


class UnsafeModel(PackageError):
    pass


class StoreError(PackageError):
    pass


class NotInstalled(StoreError):
    pass


class NothingToRollBack(StoreError):
    pass
