"""The lock: the schemas that are out in the world, in a committed file, and what a change of them would break."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from ..core.errors import ConfigError, InvalidEvent
from .registry import MODES, Types
from .rules import NEW, OLD, Finding, Reader, differences
from .schemas import Schema, bare, schema_of
from .upcasters import NoUpcaster
from .versions import Version, version_of

FILE = Path("schemas.lock.json")
#: The form of the file.
FORMAT = 1
#: Whom a change must not break.
KEEPS: dict[str, tuple[Reader, ...]] = {"backward": (NEW,), "forward": (OLD,), "full": (NEW, OLD), "none": ()}


@dataclass(frozen=True)
class Locked:
    """What the lock has of one event type.

    Attributes:
        mode: which readers its new versions have to leave whole.
        versions: the schema of each version that was ever locked.

    """

    mode: str
    versions: dict[Version, Schema]


Lock = dict[str, Locked]


@dataclass(frozen=True)
class Broken:
    """A finding, and between which versions of which type."""

    type: str
    before: str
    after: str
    finding: Finding

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"type": self.type, "from": self.before, "to": self.after, **self.finding.as_data()}


@dataclass(frozen=True)
class Report:
    """What a comparison of classes with the lock has found.

    Attributes:
        broken: what breaks readers that the modes keep whole.
        unraised: types whose schema has changed under a version that is locked.
        unlocked: what the lock does not have as it is now; `pipeline schemas lock` writes it.

    """

    broken: tuple[Broken, ...]
    unraised: tuple[str, ...]
    unlocked: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.broken or self.unraised or self.unlocked)

    @property
    def may_be_locked(self) -> bool:
        """Whether nothing is in the way of a new lock."""
        return not (self.broken or self.unraised)

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {
            "ok": self.is_good,
            "findings": [each.as_data() for each in self.broken],
            "unraised": list(self.unraised),
            "unlocked": list(self.unlocked),
        }


def read_lock(path: Path) -> Lock:
    """Return what a lock file has; raise ConfigError when it cannot be read."""
    try:
        data = orjson.loads(path.read_bytes())
        if data["format"] != FORMAT:
            raise ConfigError(f"{path}: its format is {data['format']!r}, and this version reads {FORMAT}")
        return {name: _locked(path, name, entry) for name, entry in data["types"].items()}
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `pipeline schemas lock` writes it, then commit it") from None
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        if isinstance(exc, InvalidEvent):
            raise ConfigError(f"{path}: {exc}") from None
        raise ConfigError(
            f"{path} is no lock of schemas ({type(exc).__name__}: {exc}); take it from git again"
        ) from None


def _locked(path: Path, name: str, entry: dict[str, Any]) -> Locked:
    if entry["mode"] not in MODES:
        raise ConfigError(f"{path}: {name}: mode {entry['mode']!r} is none of {', '.join(MODES)}")
    return Locked(entry["mode"], {version_of(text, name): schema for text, schema in entry["versions"].items()})


def encoded(lock: Lock) -> bytes:
    """Return a lock as its file has it: sorted, so that a change of one type is a change of its lines."""
    types = {
        name: {"mode": locked.mode, "versions": {str(v): schema for v, schema in sorted(locked.versions.items())}}
        for name, locked in sorted(lock.items())
    }
    return orjson.dumps({"format": FORMAT, "types": types}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def lock_of(types: Types, before: Lock) -> Lock:
    """Return the lock of what an app's classes are now; earlier versions stay in it, types that are gone do not.

    Raises ConfigError when classes of one version differ.
    """
    found = {}
    for name in types:
        earlier = before[name].versions if name in before else {}
        now = {version: _schema(types, name, version) for version in types.versions(name)}
        found[name] = Locked(types.mode(name), {**earlier, **now})
    return found


def check(types: Types, lock: Lock) -> Report:
    """Compare an app's classes with what was locked before; raise ConfigError when classes of one version differ."""
    new = lock_of(types, lock)
    broken, unraised, unlocked = [], [], []
    for name, locked in lock.items():
        findings = _broken(types, name, locked, new[name]) if name in new else _removed(name, locked)
        mode = new[name].mode if name in new else locked.mode
        broken += [each for each in findings if each.finding.breaks in KEEPS[mode]]
    for name, entry in new.items():
        old = lock.get(name, Locked(entry.mode, {}))
        if old.mode != entry.mode:
            unlocked.append(f"{name} is locked as {old.mode}, and declared as {entry.mode}")
        for version, schema in entry.versions.items():
            if version not in old.versions:
                unlocked.append(f"{name} {version} is not in the lock")
            elif schema == old.versions[version]:
                continue
            elif entry.mode == "none":
                unlocked.append(f"{name} {version} has changed since it was locked")
            else:
                unraised.append(f"{name} {version} has changed since it was locked: give the class a higher version")
    unlocked += [f"{name} is in the lock, and no class has it any more" for name in lock if name not in new]
    return Report(tuple(broken), tuple(unraised), tuple(unlocked))


def _broken(types: Types, name: str, locked: Locked, now: Locked) -> Iterator[Broken]:
    """Yield what breaks between each version of a type that was locked and those that classes have now."""
    current = list(types.versions(name))
    newest, last = current[-1], max(locked.versions)
    if newest < last:
        yield Broken(name, str(last), str(newest), Finding("version-lowered", "", str(last), str(newest), NEW))
    for version, schema in sorted(locked.versions.items()):
        for one in current:
            if one.major == version.major and one >= version:
                for finding in differences(schema, now.versions[one]):
                    yield Broken(name, str(version), str(one), finding)
        if version.major < newest.major:
            yield Broken(name, str(version), str(newest), Finding("newer-major", "", str(version), str(newest), OLD))
        if version.major not in {one.major for one in current} and version < newest:
            try:
                types.upcasters.chain(name, version, newest)
            except NoUpcaster as exc:
                yield Broken(
                    name, str(version), str(newest), Finding("upcaster-missing", "", str(version), str(exc), NEW)
                )


def _removed(name: str, locked: Locked) -> Iterator[Broken]:
    last = str(max(locked.versions))
    yield Broken(name, last, "", Finding("type-removed", "", last, None, NEW))


def _schema(types: Types, name: str, version: Version) -> Schema:
    """Return the schema of one version of a type, as it is locked."""
    classes = types.classes(name, version)
    schemas: list[Schema] = [bare(schema_of(cls)) for cls in classes]
    for (one, other), (cls, again) in zip(pairwise(schemas), pairwise(classes), strict=True):
        if one != other:
            raise ConfigError(
                f"{name} {version} is two classes that differ: {cls.__module__}.{cls.__qualname__} and "
                f"{again.__module__}.{again.__qualname__}; make one of them, give one another version, or take the "
                "type= away from a class that only reads a part"
            )
    return schemas[0]
