"""What `doctor` reports: findings, and a verdict for each reader."""

import contextlib
import html as markup
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from precomputed_fs.doctor.checks import READERS
from precomputed_fs.doctor.folder_checks import READ
from precomputed_fs.doctor.folder_rules import FOLDER_RULES
from precomputed_fs.doctor.rules import RULES, Rule
from precomputed_fs.doctor.seen import SeenFolder, SeenPyramid, SeenScale
from precomputed_fs.format.scene_folders import KINDS
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.volume import one_line

_SHOWN_KEYS = 6  # of scales, in a line of the report
_ALL = ""  # among keys: all that there is


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that applies, and what it found."""

    rule: Rule

    found: str

    scale: str | None = None
    """The key of the scale; None for the pyramid or a folder."""

    folder: str | None = None
    """The member of `info` that names the folder; None for the pyramid or a scale."""

    @property
    def message(self) -> str:
        """The rule's message, with what was found."""
        return self.rule.message.replace("{}", self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        rule = self.rule
        return {
            "id": rule.id,
            "severity": rule.severity,
            "readers": list(rule.readers),
            "scale": self.scale,
            "folder": self.folder,
            "message": self.message,
            "advice": rule.advice,
            "source": rule.source,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one reader can open a pyramid."""

    reader: str

    ok: bool | None
    """Whether it reads all scales correctly, as far as they were examined, and those of the folders of meshes,
    skeletons and segment properties that it knows; None if that is not known, for example if no chunk was examined."""

    scales: Mapping[str, bool | None]
    """The same for each scale, by its key."""

    folders: Mapping[str, bool | None]
    """The same for each folder, by the member of `info` that names it; None also if the reader does not know such."""

    findings: tuple[Finding, ...]
    """The findings that concern it, errors first."""

    def __str__(self) -> str:
        if self.ok is not False:
            is_elsewhere = any(finding.rule.id == "protocol" for finding in self.findings)
            return f"ok{' elsewhere' * is_elsewhere}" if self.ok else "unknown"
        good = [key for key, ok in (*self.scales.items(), *self.folders.items()) if ok]
        return f"only {_some(good)}" if good else "no"


@dataclass(frozen=True, repr=False)
class Report:
    """What `doctor` found.

    ``report["tensorstore"]`` is the verdict on one of `READERS`.
    """

    url: str
    """Without secrets."""

    scales: tuple[str, ...]
    """Keys of the scales."""

    folders: Mapping[str, str]
    """The folders of meshes, skeletons and segment properties that `info` names, by its members; of a folder that
    stands alone, only that one."""

    chunks: int
    """The number of chunks that were examined."""

    verdicts: Mapping[str, Verdict]
    """By reader."""

    findings: tuple[Finding, ...]
    """All findings, errors first."""

    @classmethod
    def of(cls, seen: SeenPyramid) -> "Report":
        """Apply the rules to what was seen."""
        scales = tuple(seen.scales)
        closed: dict[str, set[str]] = {reader: set() for reader in READERS}
        closed_folders: dict[str, set[str]] = {reader: set() for reader in READERS}
        unknown: set[str] = set()
        findings = list(_findings(seen, scales))
        keys = [one_line(scale.key) for scale in scales]
        for finding in findings:
            rule, everywhere = finding.rule, {*keys, _ALL}
            here = everywhere if finding.scale is None else {finding.scale}
            if rule.hides:
                unknown |= here
            if rule.severity == "error":
                for reader in rule.readers:
                    if finding.folder is not None:
                        closed_folders[reader].add(finding.folder)
                    if rule.closes_all or finding.folder is None:
                        closed[reader] |= everywhere if rule.closes_all else here
        order = ("error", "warning", "note")
        findings.sort(key=lambda finding: order.index(finding.rule.severity))
        return cls(
            one_line(seen.location.display()),
            tuple(keys),
            {folder.member: without_secrets(folder.folder.given) if folder.folder else "" for folder in seen.folders},
            sum(len(scale.samples) for scale in scales),
            {
                reader: _verdict(
                    reader,
                    _judged(keys, closed[reader], unknown),
                    _judged_folders(reader, seen, closed[reader] | closed_folders[reader], unknown),
                    closed=bool(closed[reader] or closed_folders[reader]),
                    findings=findings,
                )
                for reader in READERS
            },
            tuple(findings),
        )

    def __getitem__(self, reader: str) -> Verdict:
        return self.verdicts[reader]

    @property
    def ok(self) -> bool:
        """Whether every reader can open the whole pyramid."""
        return all(verdict.ok for verdict in self.verdicts.values())

    def only(self, readers: Iterable[str]) -> "Report":
        """Return the verdicts on some readers, and the findings that concern them."""
        verdicts = {reader: self.verdicts[reader] for reader in READERS if reader in {*readers}}
        findings = tuple(finding for finding in self.findings if not verdicts.keys().isdisjoint(finding.rule.readers))
        return replace(self, verdicts=verdicts, findings=findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "url": self.url,
            "scales": list(self.scales),
            "folders": dict(self.folders),
            "chunks": self.chunks,
            "readers": {
                reader: {"ok": verdict.ok, "scales": dict(verdict.scales), "folders": dict(verdict.folders)}
                for reader, verdict in self.verdicts.items()
            },
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        width = max(map(len, READERS))
        examined = [_counted(len(self.scales), "scale"), _counted(self.chunks, "chunk")] if self.scales else []
        examined += [KINDS.get(member, member) for member in self.folders]
        lines = [f"{self.url}: {', '.join(examined) or 'nothing'} examined"]
        lines += [f"  {reader:{width}}  {verdict}" for reader, verdict in self.verdicts.items()]
        for group in self._grouped():
            rule = group[0].rule
            lines += [f"{rule.severity}: {_concerned(group)}: {_described(group)}", f"    {rule.advice} [{rule.id}]"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def row(*cells: str) -> str:
            return (
                "<tr>" + "".join(f"<td style='text-align: left'>{markup.escape(cell)}</td>" for cell in cells) + "</tr>"
            )

        verdicts = "".join(row(reader, str(verdict)) for reader, verdict in self.verdicts.items())
        rules = "".join(
            row(group[0].rule.severity, _concerned(group), _described(group), group[0].rule.advice)
            for group in self._grouped()
        )
        return f"<div><code>{markup.escape(self.url)}</code><table>{verdicts}</table><table>{rules}</table></div>"

    def _grouped(self) -> Iterable[list[Finding]]:
        """Group findings that are the same for several scales or readers."""
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for finding in self.findings:
            rule = finding.rule
            groups.setdefault((rule.severity, rule.id, rule.message, rule.advice), []).append(finding)
        return groups.values()


def _findings(seen: SeenPyramid, scales: Iterable[SeenScale]) -> Iterator[Finding]:
    places: Mapping[str, Iterable[Any]] = {"pyramid": (seen,), "scale": scales, "folder": seen.folders}
    for rule in (*RULES, *FOLDER_RULES):
        for place in places[rule.looks_at]:
            found = None
            with contextlib.suppress(Exception):  # an invalid `info` may be anything
                found = rule.finds(place)
            if found is not None:
                key = one_line(place.key) if isinstance(place, SeenScale) else None
                yield Finding(rule, one_line(found), key, place.member if isinstance(place, SeenFolder) else None)


def _judged(keys: Iterable[str], closed: set[str], unknown: set[str]) -> dict[str, bool | None]:
    return {key: False if key in closed else None if key in unknown else True for key in keys}


def _judged_folders(reader: str, seen: SeenPyramid, closed: set[str], unknown: set[str]) -> dict[str, bool | None]:
    read = [folder.member for folder in seen.folders if folder.member in READ.get(reader, ())]
    everywhere = set(read)
    judged = _judged(
        read, everywhere if _ALL in closed else closed, everywhere if _ALL in unknown else unknown & everywhere
    )
    return {folder.member: judged.get(folder.member) for folder in seen.folders}


def _verdict(
    reader: str,
    scales: Mapping[str, bool | None],
    folders: Mapping[str, bool | None],
    *,
    closed: bool,
    findings: Iterable[Finding],
) -> Verdict:
    known = [*scales.values(), *(ok for member, ok in folders.items() if not scales or member in READ.get(reader, ()))]
    is_open = None if None in known or not known else True
    concerned = tuple(finding for finding in findings if reader in finding.rule.readers)
    return Verdict(reader, False if closed else is_open, scales, folders, concerned)


def _concerned(group: Iterable[Finding]) -> str:
    readers = {reader for finding in group for reader in finding.rule.readers}
    return "all" if len(readers) == len(READERS) else ", ".join(reader for reader in READERS if reader in readers)


def _described(group: Sequence[Finding]) -> str:
    """Return the first message of a group, and the scales or folders that it concerns."""
    places = (finding.scale if finding.folder is None else finding.folder for finding in group)
    found = list(dict.fromkeys(place for place in places if place is not None))
    return group[0].message + (f" (in {_some(found)})" if found else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return ", ".join(keys[:_SHOWN_KEYS]) + more
