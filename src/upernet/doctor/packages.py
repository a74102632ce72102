"""The required packages and those of the optional extras: which are installed, in which version."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from upernet.doctor.finding import Facts, Finding
from upernet.version import __version__

NATIVE = ("torch", "torchvision", "numba")
"""Packages with compiled parts that can be installed and yet not load: other builds, other versions of each other."""
FOR_DEVELOPERS = ("bench", "dev", "docs")
"""Extras that only the development of this package needs."""


def examine_packages() -> tuple[Facts, list[Finding]]:
    """Return the versions of Python and of all required packages, and what is missing for each extra."""
    facts: Facts = {
        "upernet": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable, "platform": platform.platform()},
    }
    findings: list[Finding] = []
    try:
        stated = requires("upernet") or []
    except PackageNotFoundError:
        stated = []
        findings.append(
            Finding(
                "upernet runs from its source folder without being installed, so its requirements are unknown",
                "pip install -e . in that folder",
                broken=False,
            )
        )
    required = list(requirements_of(stated))
    facts["packages"] = {requirement.name: installed_version(requirement.name) for requirement in required}
    if unmet := [requirement for requirement in required if not is_met(requirement)]:
        findings.append(Finding(f"missing or too old: {_names(unmet)}", install_command(unmet)))
    facts["extras"] = {
        extra: [str(_plain(requirement)) for requirement in requirements_of(stated, extra) if not is_met(requirement)]
        for extra in extras_of(stated)
        if extra not in FOR_DEVELOPERS
    }
    facts["importable"] = {}
    for name in NATIVE:
        error = import_error(name)
        facts["importable"][name] = not error
        if error and installed_version(name) is not None:
            together = f"pip install --force-reinstall {'torch torchvision' if name != 'numba' else 'numba'}"
            findings.append(Finding(f"{name} {installed_version(name)} cannot be imported ({error})", together))
    return facts, findings


def extras_of(stated: Sequence[str]) -> list[str]:
    """Return the names of the extras in the requirements that a package states, sorted."""
    found: set[str] = set()
    for text in stated:
        marker = str(Requirement(text).marker or "")
        _, is_extra, rest = marker.partition("extra == ")
        if is_extra:
            found.add(rest.strip("\"' )").partition('"')[0])
    return sorted(found)


def requirements_of(stated: Sequence[str], extra: str = "") -> Iterator[Requirement]:
    """Yield the requirements of an extra that apply on this system; without an extra, those of the package itself.

    Args:
        stated: Requirements as `importlib.metadata.requires` returns them.
        extra: Name of an extra. Extras that it includes (`upernet[train]`) are followed.
    """
    for text in stated:
        requirement = Requirement(text)
        marker = requirement.marker
        if ("extra" in str(marker)) != bool(extra) or not (marker is None or marker.evaluate({"extra": extra})):
            continue
        if requirement.name == "upernet":
            for included in sorted(requirement.extras):
                yield from requirements_of(stated, included)
        else:
            yield requirement


def is_met(requirement: Requirement) -> bool:
    """Return whether the package is installed in a version that is allowed."""
    found = installed_version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def import_error(name: str) -> str:
    """Return the first line of the error that stops the import of a module, or an empty string."""
    try:
        import_module(name)
    except Exception as error:  # a library that does not load raises OSError, RuntimeError, AttributeError, ...
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def install_command(requirements: Sequence[Requirement]) -> str:
    """Return the command that installs some requirements."""
    return f"pip install {' '.join(repr(str(_plain(requirement))) for requirement in requirements)}"


def _plain(requirement: Requirement) -> Requirement:
    """Return the requirement without its marker."""
    plain = Requirement(str(requirement))
    plain.marker = None
    return plain


def _names(requirements: Sequence[Requirement]) -> str:
    return ", ".join(f"{part.name} {installed_version(part.name) or ''}".rstrip() for part in requirements)
