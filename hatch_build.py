"""Compiles the hot pure modules with Cython: into a wheel (`HATCH_BUILD_HOOK_ENABLE_CUSTOM=1`), or in place.

    python hatch_build.py           compiles in place, beside the modules: Python then imports the compiled ones
    python hatch_build.py --remove  removes what that made

The modules stay as they are: plain Python is the reference and what runs without a compiler. Annotations mean nothing
to the compiled code (`annotation_typing`), so it computes with the same objects and gives the same bits
(`tests/compiled/test_compiled.py`). Modules with coroutines are left out: compiled they were slower.
"""

import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
COMPILED = (
    "engine/catalog/conditions/compile.py",
    "engine/catalog/conditions/dates.py",
    "engine/catalog/conditions/js_coercion.py",
    "engine/catalog/plan/features.py",
    "engine/catalog/plan/channel_experiments.py",
    "engine/catalog/plan/indexing/*.py",
    "engine/catalog/plan/plan.py",
    "engine/customer.py",
    "engine/customers/redis/keys.py",
    "engine/customers/redis/stored_entry.py",
    "engine/decision/*.py",
    "engine/decision/gating/*.py",
    "engine/hashing.py",
    "engine/journal/from_decision.py",
    "engine/journal/records.py",
    "engine/journal/spool/frames.py",
    "engine/journal/traces.py",
    "engine/traits/attributes.py",
    "engine/traits/stages.py",
    "policies/base.py",
    "policies/best_arms.pyx",
    "policies/joint_draws.py",
    "policies/linear/regression.py",
    "policies/linear/thompson.py",
)
"""The modules that a decision spends its time in. Those of the learner and the collector gained nothing measurable."""
MARK = ROOT / "engine" / "compiled.txt"
DIRECTIVES = {"language_level": 3, "annotation_typing": False, "binding": True}


class CompileHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel; their sources stay in it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; an editable wheel stays as it is."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        built = compile_modules(Path(self._folder.name))
        build_data["pure_python"], build_data["infer_tag"] = False, True
        build_data["force_include"].update({str(path): str(path.relative_to(self._folder.name)) for path in built})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel contains by now."""
        del version, build_data, artifact_path
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compile_modules(into: Path) -> list[Path]:
    """Compile all modules into extension modules under `into`, laid out as their packages; returns their paths."""
    from Cython.Build import cythonize  # noqa: PLC0415 (only a compiled build needs it)
    from setuptools import Distribution, Extension  # noqa: PLC0415

    os.chdir(ROOT)
    workers = os.cpu_count() or 1
    sources = sorted({path.relative_to(ROOT) for pattern in COMPILED for path in ROOT.glob(pattern)})
    modules = [
        Extension(".".join(path.with_suffix("").parts), [str(path)], extra_compile_args=options_of(path))
        for path in sources
        if path.name != "__init__.py"
    ]
    translated = cythonize(
        modules, nthreads=workers, build_dir=".cache/compiled", compiler_directives=DIRECTIVES, quiet=True
    )
    build = Distribution({"ext_modules": translated}).get_command_obj("build_ext")
    build.build_lib, build.build_temp, build.parallel = str(into), ".cache/compiled", workers
    build.ensure_finalized()
    build.run()
    return [Path(path) for path in build.get_outputs()]


def options_of(source: Path) -> list[str]:
    """The compiler's options: a loop of C is optimized, and the calls of Python's API gain nothing from that.

    Without contraction products are rounded before they are added, as numpy does.
    """
    return ["-O3" if source.suffix == ".pyx" else "-O1", "-ffp-contract=off", "-g0", "-w"]


def write_mark(built: Collection[Path]) -> None:
    """Write which sources were compiled in place, for `engine/compiled.py`."""
    lines = []
    for path in built:
        source = path.with_name(path.name.partition(".")[0] + ".py")
        source = source if source.exists() else source.with_suffix(".pyx")
        state = source.stat()
        lines.append(f"{state.st_size} {state.st_mtime_ns} {source.relative_to(ROOT).as_posix()}\n")
    MARK.write_text("".join(lines), encoding="utf-8")


def remove_compiled(keep: Collection[Path] = ()) -> None:
    """Remove the compiled modules that are beside their sources, except those to keep."""
    for package in ("engine", "policies"):
        for path in (ROOT / package).rglob("*.so"):
            if path not in keep:
                path.unlink()


def main() -> None:
    """Compile in place what changed, or remove what that made."""
    MARK.unlink(missing_ok=True)
    built = [] if "--remove" in sys.argv else compile_modules(ROOT)
    remove_compiled(built)
    if built:
        write_mark(built)
    print(f"{len(built)} modules are compiled")  # noqa: T201 (its report)


if __name__ == "__main__":
    main()
