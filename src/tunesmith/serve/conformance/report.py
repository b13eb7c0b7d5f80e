"""Results as a table for people, JSON, or JUnit for build servers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tunesmith.serve.conformance.suite import Result


def table(results: Sequence[Result]) -> str:
    """Feature x mode, the reasons of what did not pass, and the sums."""
    names = list(dict.fromkeys(result.name for result in results))
    verdicts = {(result.name, result.mode): result.verdict for result in results}
    width = max((len(name) for name in names), default=7)
    lines = [f"{'feature':<{width}}  plain  stream"]
    for name in names:
        plain, stream = (verdicts.get((name, mode), "-") for mode in ("plain", "stream"))
        lines.append(f"{name:<{width}}  {plain:<5}  {stream}")
    remarks = [f"{r.verdict} {r.name} ({r.mode}): {r.detail}" for r in results if r.verdict != "PASS"]
    counts = Counter(result.verdict for result in results)
    total = f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped"
    return "\n".join([*lines, *([""] if remarks else []), *remarks, "", total])


def write_report(results: Sequence[Result], path: Path) -> None:
    """Write JSON, or JUnit where the name ends with .xml."""
    if path.suffix != ".xml":
        path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
        return
    counts = Counter(result.verdict for result in results)
    suite = ET.Element(
        "testsuite",
        {"name": "openai", "tests": str(len(results)), "failures": str(counts["FAIL"]), "skipped": str(counts["SKIP"])},
    )
    for result in results:
        case = ET.SubElement(
            suite, "testcase", {"classname": result.mode, "name": result.name, "time": f"{result.seconds:.3f}"}
        )
        if result.verdict != "PASS":
            kind = "failure" if result.verdict == "FAIL" else "skipped"
            ET.SubElement(case, kind, {"message": result.detail})
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
