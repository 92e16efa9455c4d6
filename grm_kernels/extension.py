"""The compiled module `_C`: loading it, why it is not there, and how it was built."""

import importlib.metadata
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).resolve().parent
_BUILD_HERE = "`python setup.py build_ext --inplace` compiles them here"


def _why_missing(folder: Path, error: ImportError) -> str:
    """Why the package in `folder` cannot import its compiled module, `error` being what the import said."""
    if error.name != f"{__package__}._C" and "cannot import name '_C'" not in str(error):
        return f"the compiled kernels do not load: {error}"
    if not (folder.parent / "csrc").is_dir():
        return "the compiled kernels are not installed (no C++ compiler that knows _Float16, or GRM_KERNELS_BUILD=0)"
    source = f"the source folder {folder.parent}"
    if installed := _installed_elsewhere(folder):
        return (
            f"the compiled kernels are installed in {installed}, but {source} hides that package: "
            f"run Python in another folder ({_BUILD_HERE})"
        )
    return f"the compiled kernels are not built in {source} ({_BUILD_HERE})"


def _installed_elsewhere(folder: Path) -> Path | None:
    """Where another copy of the package with a compiled module is installed."""
    for distribution in importlib.metadata.distributions(name="grm-kernels"):
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file))).resolve()
            if path.parent.name == folder.name and path.parent != folder and path.name.startswith("_C."):
                return path.parent
    return None


#: The compiled module, None where it is missing; importing it registers its operators.
module: ModuleType | None = None
#: Why it is missing; None when it is there.
unavailable: str | None = None

try:
    from . import _C
except ImportError as error:
    unavailable = _why_missing(_FOLDER, error)
else:
    module = _C

#: Compute capabilities that CUDA code was compiled for, as "9.0a"; empty without nvcc or with a torch without CUDA.
CUDA_ARCHITECTURES: tuple[str, ...] = tuple(getattr(module, "cuda_architectures", "").split())


def build() -> str | None:
    """The compiler and torch that the module was built with; None where it is missing."""
    return f"compiler {module.compiler}, torch {module.built_with_torch}" if module else None
