"""Domains and systems: what they declare, and how they are found.

A domain is a folder of the ``domains`` package, or an installed package that declares the entry point group
``fmhub.domains``, with a ``domain.toml``. Everything that listing needs stands in that file, so that nothing of a
domain is imported before one of its checkpoints is asked for. ``hub`` knows no domain by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from hub.errors import MissingDependency, UnknownDomain

ENTRY_POINT_GROUP = "fmhub.domains"

ROLES = ("reader", "samples", "augment", "baseline", "finetune", "explain", "preview", "examples")
"""What a whole domain may name, each as ``module:Name``: its reader; writers of sample files; ``augment(sample,
generator) -> Sample``, a mild change that keeps what the sample is; simple features; a preset for fine-tuning; flows
and the like beside known ones; ``preview(sample, small=False) -> TaskFile``, a picture of a sample; ``examples() ->
list[Source]``, small native files of known kinds, named after what they hold."""


@dataclass(frozen=True)
class System:
    """One published method: its classes as ``module:Name`` relative to the domain's package.

    Attributes:
        name: Folder name in the domain, and prefix of its built-in checkpoints.
        title: The name its paper gives it.
        paper: Where it is published.
        model_type: ``model_type`` of its ``config.json``.
        published: Values of ``model_type`` under which its authors publish checkpoints; the converter reads those.
        classes: Role to reference: ``configuration``, ``model``, ``processor``, ``pretraining``, ``collator``,
            and ``converter`` where official files can be converted.
        domain: The domain it belongs to.
    """

    name: str
    title: str
    paper: str
    model_type: str
    classes: Mapping[str, str] = field(repr=False)
    domain: Domain = field(repr=False, compare=False)
    published: tuple[str, ...] = ()

    def load(self, role: str) -> Any:
        """Import and return the class or function that plays ``role``.

        Raises:
            UnknownDomain: This system declares no such role.
            MissingDependency: The domain's packages are not installed.
        """
        if role not in self.classes:
            raise UnknownDomain(f"{self.title} declares no {role!r}; it has {', '.join(self.classes)}")
        return self.domain.resolve(self.classes[role])

    @property
    def recipes(self) -> dict[str, Path]:
        """Recipes of this system by name."""
        return {p.stem: p for p in sorted((self.domain.folder / self.name / "recipes").glob("*.yaml"))}


@dataclass(frozen=True)
class Command:
    """A command that a domain adds to ``fmhub``: where its function is, and its line of help."""

    reference: str
    help: str


@dataclass(frozen=True)
class Domain:
    """One kind of data, as its ``domain.toml`` declares it.

    Attributes:
        name: For example ``eeg``.
        title: For people.
        package: Import name, for example ``domains.eeg``.
        folder: Where it lies.
        suffixes: File suffixes that a folder walk should pick up, with the dot.
        references: Role to ``module:Name``, those of ``ROLES``.
        requires: Import names that must be present.
        install: The line that installs them.
        systems: Its systems by name.
        commands: Commands it adds by name.
    """

    name: str
    title: str
    package: str
    folder: Path
    suffixes: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict, repr=False)
    requires: tuple[str, ...] = ()
    install: str = ""
    systems: dict[str, System] = field(default_factory=dict, repr=False)
    commands: dict[str, Command] = field(default_factory=dict, repr=False)

    @classmethod
    def from_folder(cls, folder: Path, package: str) -> Domain:
        """Read a folder's ``domain.toml``; nothing of it is imported."""
        data = tomllib.loads((folder / "domain.toml").read_text(encoding="utf-8"))
        domain = cls(
            name=data["name"],
            title=data["title"],
            package=package,
            folder=folder,
            suffixes=tuple(data.get("suffixes", ())),
            references={k: data[k] for k in ROLES if k in data},
            requires=tuple(data.get("requires", ())),
            install=data.get("install", ""),
            commands={n: Command(c["run"], c["help"]) for n, c in data.get("commands", {}).items()},
        )
        for name, entry in data.get("systems", {}).items():
            described = {k: entry[k] for k in ("title", "paper", "model_type")}
            published = tuple(entry.get("published", ()))
            classes = {k: v for k, v in entry.items() if k not in (*described, "published")}
            domain.systems[name] = System(name=name, classes=classes, domain=domain, published=published, **described)
        return domain

    @property
    def missing(self) -> tuple[str, ...]:
        """Required packages that are not installed."""
        return tuple(name for name in self.requires if importlib.util.find_spec(name) is None)

    def resolve(self, reference: str) -> Any:
        """Import ``module:Name`` relative to this domain's package.

        Raises:
            MissingDependency: A required package is absent; the text holds the line that installs it.
        """
        if self.missing:
            raise MissingDependency(
                f"{self.title} needs {', '.join(self.missing)}, which is not installed; run: {self.install}"
            )
        module, _, name = reference.partition(":")
        return getattr(_imported(f"{self.package}.{module}"), name)

    def load(self, role: str) -> Any:
        """Import and return what plays ``role`` for the whole domain (``reader``, ``samples``, ``baseline``).

        Raises:
            UnknownDomain: The domain declares no such role.
        """
        if role not in self.references:
            raise UnknownDomain(f"domain {self.name!r} declares no {role!r}")
        return self.resolve(self.references[role])


def _imported(module: str) -> ModuleType:
    """Import a module of a domain; what its libraries use of others that will go away is no matter of the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module(module)


def _folders() -> list[tuple[Path, str]]:
    """Return (folder, package) of every domain: the ``domains`` package first, then entry points."""
    found = []
    built_in = importlib.util.find_spec("domains")
    for root in (built_in.submodule_search_locations or []) if built_in else []:
        found += [(p.parent, f"domains.{p.parent.name}") for p in sorted(Path(root).glob("*/domain.toml"))]
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        spec = importlib.util.find_spec(point.value)
        for root in (spec.submodule_search_locations or []) if spec else []:
            if (Path(root) / "domain.toml").exists():
                found.append((Path(root), point.value))
    return found


@cache
def domains() -> dict[str, Domain]:
    """Return all installed domains by name, without importing any of them."""
    found: dict[str, Domain] = {}
    for folder, package in _folders():
        domain = Domain.from_folder(folder, package)
        found.setdefault(domain.name, domain)
    return found


def get_domain(name: str) -> Domain:
    """Return a domain by name.

    Raises:
        UnknownDomain: There is none; the text lists those there are.
    """
    try:
        return domains()[name]
    except KeyError:
        raise UnknownDomain(f"no domain {name!r}; installed: {', '.join(sorted(domains())) or 'none'}") from None


def systems() -> dict[str, System]:
    """Return all systems of all domains by name."""
    return {s.name: s for d in domains().values() for s in d.systems.values()}


def get_system(name: str) -> System:
    """Return a system by name; ``-`` stands for ``_``.

    Raises:
        UnknownDomain: There is none; the text lists those there are.
    """
    try:
        return systems()[name.replace("-", "_")]
    except KeyError:
        raise UnknownDomain(f"no system {name!r}; installed: {', '.join(sorted(systems())) or 'none'}") from None


def system_of(model_type: str) -> System:
    """Return the system whose checkpoints carry this ``model_type``.

    Raises:
        UnknownDomain: No installed domain declares it.
    """
    for system in systems().values():
        if system.model_type == model_type:
            return system
    known = ", ".join(sorted(s.model_type for s in systems().values()))
    raise UnknownDomain(f"no installed domain knows model_type {model_type!r}; known: {known or 'none'}")


def register_domain(package: str) -> None:
    """Make one domain's classes known to transformers' Auto classes; called by the domain's ``__init__``.

    A system whose packages are missing stays unknown to the Auto classes; loading it says what to install.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

    for domain in domains().values():
        if domain.package != package or domain.missing:
            continue
        for system in domain.systems.values():
            config = system.load("configuration")
            AutoConfig.register(system.model_type, config, exist_ok=True)
            AutoModel.register(config, system.load("model"), exist_ok=True)
            AutoModelForPreTraining.register(config, system.load("pretraining"), exist_ok=True)
            AutoFeatureExtractor.register(config, system.load("processor"), exist_ok=True)


def register() -> None:
    """Make every installed domain's classes known to transformers' Auto classes."""
    for domain in domains().values():
        _imported(domain.package)
