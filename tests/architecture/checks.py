"""The rules of the house, as functions over a source tree: each returns what it visited and what it found.

Syntax trees and text only, nothing is imported, so a planted violation in a temporary folder is enough to prove that
a check can fail (test_checks_can_fail.py). Soft findings are printed, hard ones fail. A rule that forces an ugly cut
is to be changed here, with a reason, not worked around.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "tunesmith"

# Left may not import right; the same number may, as long as no cycle comes of it.
LEVELS: dict[str, int] = {
    **dict.fromkeys(("errors", "registry", "types"), 0),
    "config": 1,
    **dict.fromkeys(("render", "loss"), 2),
    **dict.fromkeys(("data", "model"), 3),
    "infer": 4,
    "train": 5,
    **dict.fromkeys(("serve", "evaluate", "doctor", "export", "runs"), 6),
    "board": 7,
    **dict.fromkeys(("cli", "__main__"), 8),
}

# third-party module -> the parts of the package that may import it (a prefix of the path below src/tunesmith)
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "torch": ("loss/", "data/collate", "model/", "train/", "infer/", "evaluate/", "export/"),
    "numpy": ("loss/", "data/", "model/", "train/", "infer/", "evaluate/", "export/", "doctor/"),
    "transformers": ("model/", "infer/hf", "render/jinja"),
    "peft": ("model/", "infer/hf"),
    "llguidance": ("infer/grammar",),
    "hqq": ("model/quantize",),
    **dict.fromkeys(("bitsandbytes", "torchao"), ("model/quantize", "train/optimizers/")),
    "accelerate": ("train/runtime",),
    "safetensors": ("model/", "train/", "export/"),
    "tokenizers": ("model/", "render/"),
    "jinja2": ("render/",),
    "pyarrow": ("data/",),
    "datasets": ("data/",),
    "yaml": ("config/", "runs/", "train/", "export/hub"),
    "rich": ("cli/", "serve/", "train/", "data/", "render/", "runs/"),
    **dict.fromkeys(("jieba", "nltk", "rouge_chinese"), ("evaluate/text_metrics",)),
    "matplotlib": ("train/plots", "board/"),
    "conversion": ("export/gguf_driver",),  # llama.cpp's own scripts, in a process of their own
    "sentencepiece": ("export/gguf_sentencepiece",),
    "gguf": ("model/gguf", "export/gguf"),
    "xllamacpp": ("infer/llamacpp",),
    "jsonschema": ("train/rewards/structured",),
    "referencing": ("train/rewards/structured",),
    **dict.fromkeys(("galore_torch", "badam"), ("train/optimizers/",)),
    "huggingface_hub": ("model/", "data/", "export/hub"),
    "modelscope": ("model/hub",),
    "gptqmodel": ("model/quantize",),
    "fastapi": ("serve/",),
    "pydantic": ("serve/",),
    **dict.fromkeys(("uvicorn", "starlette"), ("serve/openai/",)),
    **dict.fromkeys(("httpx", "openai"), ("serve/conformance/",)),
    "gradio": ("board/", "serve/webchat"),
}

FORBIDDEN_NAMES = ("utils", "util", "misc", "common", "helpers", "helper", "stuff")
# the doors; and reward functions, which are a user's code and may raise anything
BROAD_EXCEPT_ALLOWED = ("cli/main.py", "serve/", "runs/", "train/rewards/function.py")

# Literal tables: long because there is much of it, not because it is complicated.
LONG_FILES: dict[str, str] = {
    "cli/help_pages.py": "the help texts in two languages",
}

FILE_LINES = (400, 600)
FUNCTION_LINES = (50, 80)
NESTING = (3, 4)
COMPLEXITY = (10, 15)
DUPLICATE_WINDOW_LINES = 8
DUPLICATE_SHARE = 0.04

MACHINE_PATHS = re.compile(r"/work/(?:main|shared|\.)|/tmp/(?:dev|house)\b|/root/|/opt/(?:pypi|wheels)|/home/\w+/")
MENTIONS = re.compile(
    r"\bissue 2\b|\bsub-?agents?\b|\bthis session\b|\bthe brief\b|\bthe integrator\b|\bowner [A-D]\b"
    r"|\b(?:LLM|AI|Claude|GPT|language model)[- ](?:wrote|written|generated)\b",
    re.IGNORECASE,
)
TEXT_SUFFIXES = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".jsonl", ".cfg", "")
MARKDOWN_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)")


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    message: str
    hard: bool = True

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass
class Report:
    """What a check visited, and what it found there."""

    num_visited: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def hard(self) -> list[str]:
        return [str(finding) for finding in self.findings if finding.hard]

    @property
    def soft(self) -> list[str]:
        return [str(finding) for finding in self.findings if not finding.hard]

    def limit(self, path: str, line: int, what: str, value: int, limits: tuple[int, int]) -> None:
        """Record `value` where it is above the soft limit; above the hard one the finding is hard."""
        soft, hard = limits
        if value > soft:
            self.findings.append(Finding(path, line, f"{what} {value} (at most {soft}, hard {hard})", value > hard))


def python_files(root: Path) -> list[Path]:
    """Every Python file below `root`, in a fixed order."""
    return sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def _trees(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in python_files(root):
        yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


# Imports


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, where, and whether it happens when the file is loaded."""

    module: str
    line: int
    at_module_level: bool
    only_for_types: bool


def imports(tree: ast.Module, package: str) -> list[Import]:
    """Every import of a file, those inside functions and `importlib.import_module("...")` included.

    `package` is the dotted name of the package that the file lies in; relative imports are resolved with it.
    """
    found: list[Import] = []

    def visit(node: ast.AST, top: bool, types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inner_types = types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            inner_top = top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for name in _imported_names(child, package):
                found.append(Import(name, child.lineno, inner_top, inner_types))
            visit(child, inner_top, inner_types)

    visit(tree, True, False)
    return found


IMPORT_CALLS = ("importlib.import_module", "import_module", "__import__")


def _imported_names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, base]).rstrip(".")
        # `from tunesmith import cli` imports a module too: name both forms, the longer one decides nothing by itself
        return [f"{base}.{alias.name}" for alias in node.names] if base == PACKAGE else [base]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORT_CALLS:
        first = node.args[0] if node.args else None
        return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def _package_of(relative: str) -> str:
    return ".".join([PACKAGE, *Path(relative).parent.parts])


def _part(relative: str) -> str:
    """The top-level part a file belongs to: `train/loop.py` -> `train`, `errors.py` -> `errors`."""
    return Path(relative).parts[0].removesuffix(".py")


def check_import_direction(package_root: Path) -> Report:
    """No import points right, no two parts of one level import each other, and every part has a level."""
    report = Report()
    arrows: dict[str, dict[str, str]] = defaultdict(dict)
    for relative, tree in _trees(package_root):
        report.num_visited += 1
        part = _part(relative)
        if part == "__init__":
            continue
        if part not in LEVELS:
            report.findings.append(Finding(relative, 1, f"'{part}' has no level; add it to LEVELS"))
            continue
        for item in imports(tree, _package_of(relative)):
            target = item.module.split(".")[1] if item.module.startswith(PACKAGE + ".") else None
            if target is None or target == part or target not in LEVELS:
                continue
            arrows[part].setdefault(target, f"{relative}:{item.line}")
            if LEVELS[target] > LEVELS[part]:
                report.findings.append(Finding(relative, item.line, f"'{part}' imports '{target}', to its right"))
    for cycle in _cycles({part: set(targets) for part, targets in arrows.items()}):
        places = ", ".join(arrows[a][b] for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        report.findings.append(Finding(PACKAGE, 1, f"import cycle {' -> '.join(cycle)} ({places})"))
    return report


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One cycle for each group of nodes that reach each other."""
    reach = {node: _reachable(graph, node) for node in graph}
    seen: set[str] = set()
    cycles = []
    for node in sorted(graph):
        if node in seen or node not in reach[node]:
            continue
        path = _path(graph, node, node)
        seen.update(path)
        cycles.append(path)
    return cycles


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = list(graph.get(start, ()))
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += graph.get(node, ())
    return found


def _path(graph: dict[str, set[str]], start: str, goal: str) -> list[str]:
    """A shortest way from `start` back to `goal`, without repeating `goal` at the end."""
    ways = [[start]]
    while ways:
        way = ways.pop(0)
        for node in sorted(graph.get(way[-1], ())):
            if node == goal:
                return way
            if node not in way:
                ways.append([*way, node])
    return []


def check_module_cycles(package_root: Path) -> Report:
    """No two modules need each other while they are being loaded."""
    report = Report()
    names = {relative: _module_name(relative) for relative, _ in _trees(package_root)}
    known = set(names.values())
    graph: dict[str, set[str]] = defaultdict(set)
    for relative, tree in _trees(package_root):
        report.num_visited += 1
        for item in imports(tree, _package_of(relative)):
            if item.at_module_level and not item.only_for_types and item.module in known:
                graph[names[relative]].add(item.module)
    for cycle in _cycles(dict(graph)):
        if len(cycle) > 1:
            report.findings.append(Finding(cycle[0], 1, f"modules import each other: {' -> '.join(cycle)}"))
    return report


def _module_name(relative: str) -> str:
    parts = [PACKAGE, *Path(relative).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def check_third_party(package_root: Path) -> Report:
    """Third-party modules are imported only where THIRD_PARTY says; imports for types alone are free."""
    report = Report()
    for relative, tree in _trees(package_root):
        report.num_visited += 1
        for item in imports(tree, _package_of(relative)):
            top = item.module.split(".")[0]
            if item.only_for_types or top in sys.stdlib_module_names or top in (PACKAGE, ""):
                continue
            allowed = THIRD_PARTY.get(top)
            if allowed is None:
                report.findings.append(Finding(relative, item.line, f"'{top}' is in no line of THIRD_PARTY"))
            elif not relative.startswith(allowed):
                report.findings.append(Finding(relative, item.line, f"'{top}' belongs in {', '.join(allowed)}"))
    return report


def check_light_cli(package_root: Path) -> Report:
    """At module level, cli imports only the standard library, errors, registry, config and cli itself."""
    report = Report()
    free = {"errors", "registry", "config", "cli", "__version__"}
    for relative, tree in _trees(package_root):
        if _part(relative) != "cli":
            continue
        report.num_visited += 1
        for item in imports(tree, _package_of(relative)):
            parts = item.module.split(".")
            own = parts[0] == PACKAGE and (len(parts) == 1 or parts[1] in free)
            light = own or parts[0] in sys.stdlib_module_names
            if item.at_module_level and not item.only_for_types and not light:
                report.findings.append(Finding(relative, item.line, f"'{item.module}' at module level slows --help"))
    return report


# Size and shape


def check_file_sizes(root: Path) -> Report:
    """Files stay readable in one sitting; literal tables are exempt by name."""
    report = Report()
    for path in python_files(root):
        relative = path.relative_to(root).as_posix()
        report.num_visited += 1
        if relative not in LONG_FILES:
            report.limit(relative, 1, "lines:", len(path.read_text(encoding="utf-8").splitlines()), FILE_LINES)
    return report


def check_functions(root: Path) -> Report:
    """Length (docstring not counted), nesting and McCabe complexity of every function."""
    report = Report()
    for relative, tree in _trees(root):
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            report.num_visited += 1
            report.limit(relative, node.lineno, f"{node.name}: lines", _num_lines(node), FUNCTION_LINES)
            report.limit(relative, node.lineno, f"{node.name}: nesting", _nesting(node.body), NESTING)
            report.limit(relative, node.lineno, f"{node.name}: complexity", _complexity(node), COMPLEXITY)
    return report


def _num_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    doc = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - doc


BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _nesting(body: Iterable[ast.AST], depth: int = 0) -> int:
    deepest = depth
    for node in body:
        if isinstance(node, FUNCTIONS):
            continue
        if not isinstance(node, BLOCKS):
            deepest = max(deepest, _nesting(ast.iter_child_nodes(node), depth))
            continue
        children = list(ast.iter_child_nodes(node))
        chained = node.orelse if isinstance(node, ast.If) and _is_elif(node) else []
        inner = [child for child in children if child not in chained]
        deepest = max(deepest, _nesting(inner, depth + 1), _nesting(chained, depth))
    return deepest


def _is_elif(node: ast.If) -> bool:
    return len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)


DECISIONS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)


def _complexity(function: ast.AST) -> int:
    total = 1
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, FUNCTIONS):
            continue
        total += isinstance(node, DECISIONS)
        todo += ast.iter_child_nodes(node)
    return total


def check_duplication(root: Path) -> Report:
    """The share of code lines that lie in a window of 8 lines found elsewhere too."""
    report = Report()
    windows: dict[tuple[str, ...], list[tuple[str, list[int]]]] = defaultdict(list)
    num_lines = 0
    for relative, tree in _trees(root):
        report.num_visited += 1
        lines = _code_lines(root / relative, tree)
        num_lines += len(lines)
        for start in range(len(lines) - DUPLICATE_WINDOW_LINES + 1):
            window = lines[start : start + DUPLICATE_WINDOW_LINES]
            windows[tuple(text for _, text in window)].append((relative, [number for number, _ in window]))
    repeated: set[tuple[str, int]] = set()
    for places in windows.values():
        if len(places) > 1:
            repeated.update((name, number) for name, numbers in places for number in numbers)
            (first, numbers), (second, others) = places[:2]
            report.findings.append(Finding(first, numbers[0], f"repeats {second}:{others[0]}", False))
    share = len(repeated) / max(1, num_lines)
    if share >= DUPLICATE_SHARE:
        report.findings.append(Finding(".", 0, f"{share:.1%} of {num_lines} code lines are duplicates"))
    return report


def _code_lines(path: Path, tree: ast.Module) -> list[tuple[int, str]]:
    """(line number, text) of what is neither blank, comment, docstring nor import."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [(n, line.strip()) for n, line in numbered if n not in skipped and line.strip() and line.strip()[0] != "#"]


# Words


def check_public_api(root: Path) -> Report:
    """Public functions and methods are fully typed and have a docstring; so do public classes and modules."""
    report = Report()
    for relative, tree in _trees(root):
        report.num_visited += 1
        if tree.body and ast.get_docstring(tree) is None:
            report.findings.append(Finding(relative, 1, "the file does not open with what it is and why"))
        for node in _public(tree.body):
            report.num_visited += 1
            if isinstance(node, ast.ClassDef):
                missing = [] if ast.get_docstring(node) else ["a docstring"]
            else:
                missing = _missing(node)
            if missing:
                report.findings.append(Finding(relative, node.lineno, f"{node.name} lacks {', '.join(missing)}"))
    return report


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node
            yield from _public(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(node.name):
            yield node


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__init__"


def _missing(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    untyped = [
        argument.arg
        for argument in arguments
        if argument is not None and argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    missing = [f"a type for {name}" for name in untyped]
    if node.returns is None:
        missing.append("a return type")
    # `__init__` is described by its class; an overload or a setter by the function it belongs to
    if ast.get_docstring(node) is None and node.name != "__init__" and not decorators & {"overload", "setter"}:
        missing.append("a docstring")
    return missing


def check_names(root: Path) -> Report:
    """No module is named after being a heap of things."""
    report = Report()
    for path in [*python_files(root), *(p for p in root.rglob("*") if p.is_dir())]:
        report.num_visited += 1
        if path.stem in FORBIDDEN_NAMES:
            report.findings.append(Finding(path.relative_to(root).as_posix(), 1, f"'{path.stem}' says nothing"))
    return report


def check_broad_except(package_root: Path) -> Report:
    """`except Exception` only at the doors; elsewhere only to clean up and raise again."""
    report = Report()
    for relative, tree in _trees(package_root):
        report.num_visited += 1
        if relative.startswith(BROAD_EXCEPT_ALLOWED):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
                continue
            last = node.body[-1]
            if not (isinstance(last, ast.Raise) and last.exc is None):
                report.findings.append(Finding(relative, node.lineno, "a broad except hides bugs; name the errors"))
    return report


def _is_broad(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(ast.unparse(name) in ("Exception", "BaseException") for name in names)


def check_text(root: Path, files: Iterable[Path]) -> Report:
    """No path of one machine and no word about who wrote it; links in Markdown lead somewhere."""
    report = Report()
    for path in files:
        report.num_visited += 1
        relative = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for pattern in (MACHINE_PATHS, MENTIONS):
                if match := pattern.search(line):
                    report.findings.append(Finding(relative, number, f"'{match.group()}' does not belong here"))
            if path.suffix == ".md":
                for target in MARKDOWN_LINK.findall(line):
                    if not (path.parent / target).exists():
                        report.findings.append(Finding(relative, number, f"the link to '{target}' leads nowhere"))
    return report
