"""The documents: equal in both languages, and true of the files, flags, modules and messages that they name."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise, zip_longest

import pytest

from tests.support.paths import ROOT
from videobench.data.rows import ROW_FIELDS
from videobench.run.journals import SUITE_VERSION

MOST_LINES = 250  # of a README
PAIRS = {
    "README.md": "README.zh-CN.md",
    **{f"docs/{path.name}": f"docs/zh-CN/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))},
}
DOCUMENTS = [*PAIRS, *PAIRS.values(), "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
SCRIPTS = ["extract_dataset.py", "run_npu.py", "run_gpu.py", "precision_test.py"]
# Flags of other programs, which no --help of ours lists.
FOREIGN_FLAGS = {
    "tests/attack.py": {"--kills", "--videos", "--disks"},
    "hf": {"--local-dir", "--repo-type"},
    "pip": {"--no-deps", "--disable-pip"},
    "git": {"--depth"},
    "curl": {"--output"},
    "torchrun": {"--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id", "--master_addr", "--node_rank"},
    "slurm": {"--nodes", "--ntasks-per-node", "--exclusive", "--signal", "--kill-on-bad-exit"},
    "vllm": {"--model", "--dtype", "--served-model-name", "--max-model-len", "--max-logprobs", "--generation-config"},
    "lm-eval": {"--log_samples", "--tasks", "--model_args", "--num_fewshot", "--output_path"},
    "pytest": {"--cov"},
    "ruff": {"--check"},
    "chromium": {"--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size", "--screenshot"},
}
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*", re.ASCII)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(
    r"(?<![\w./<-])(?:(?:videobench|tests|benchmarks|docs|\.ci)/[\w./-]*[\w/]|(?:\w+/)*\w+\.(?:py|sh|txt|toml))(?![\w/*])",
    re.ASCII,
)
LOGPROBS = {"A": -0.1, "B": -2.4}
FILES_OF_USERS = {"set_env.sh"}


@cache
def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def prose_of(name):
    """Without code blocks, so that a comment there is no heading."""
    return FENCE.sub("", text_of(name))


def blocks_of(name):
    """(language, content) of each code block, without comments and trailing spaces."""
    return [
        (language, "\n".join(line.rstrip() for line in COMMENT.sub("", content).splitlines()).strip())
        for _, language, content in FENCE.findall(text_of(name))
    ]


def headings_of(name):
    """(level, text) in order."""
    return [(len(hashes), text) for hashes, text in re.findall(r"^(#+) (.+)$", prose_of(name), re.MULTILINE)]


def sections_of(name):
    return re.split(r"^#+ .+$", prose_of(name), flags=re.MULTILINE)


def tables_of(name):
    """Each table as a list of rows, each a list of cells, without the line below the head."""
    tables = re.findall(r"(?:^ *\|.*\|$\n?)+", prose_of(name), re.MULTILINE)
    rows = [[line.strip().strip("|").split("|") for line in table.splitlines()] for table in tables]
    return [[row for row in table if not re.fullmatch(r"[\s|:-]*", "|".join(row))] for table in rows]


def numbers_in(text):
    return re.findall(r"\d+(?:[.,]\d+)*", text)


def anchors_of(name):
    """As GitHub makes them of headings."""
    return [re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") for _, text in headings_of(name)]


@pytest.mark.parametrize("english", PAIRS)
class TestBothLanguages:
    def test_have_headings_of_equal_levels(self, english):
        both = [[level for level, _ in headings_of(each)] for each in (english, PAIRS[english])]
        assert both[0] == both[1]

    def test_have_equal_code_blocks_but_for_comments(self, english):
        for ours, theirs in zip_longest(blocks_of(english), blocks_of(PAIRS[english])):
            assert ours == theirs

    def test_name_the_same_flags_and_files_in_each_section(self, english):
        sections = zip_longest(sections_of(english), sections_of(PAIRS[english]), fillvalue="")
        for number, (ours, theirs) in enumerate(sections):
            for pattern in (FLAG, FILE):
                named = set(pattern.findall(theirs.replace("docs/zh-CN/", "docs/")))
                assert set(pattern.findall(ours)) == named, f"section {number}"

    def test_have_equal_tables(self, english):
        """Rows, columns, code and numbers; of messages, the words are the program's own."""
        for ours, theirs in zip_longest(tables_of(english), tables_of(PAIRS[english]), fillvalue=[]):
            for left, right in zip_longest(ours, theirs, fillvalue=[]):
                assert len(left) == len(right), f"{left} and {right}"
                assert sorted(CODE.findall("|".join(left))) == sorted(CODE.findall("|".join(right)))
                assert sorted(numbers_in("|".join(left))) == sorted(numbers_in("|".join(right))), f"{left}, {right}"


@pytest.mark.parametrize("chinese", PAIRS.values())
def test_no_line_ends_within_a_chinese_sentence(chinese):
    """It would be shown as a space."""
    lines = [line.strip() for line in prose_of(chinese).splitlines()]
    for line, following in pairwise(lines):
        is_new = not following or re.match(r"[|#>*-]|\d+\. |!\[|<", following)
        assert is_new or not line, f"{line} / {following}"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_is_short(name):
    assert len(text_of(name).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    folder = (ROOT / name).parent
    for link in LINK.findall(prose_of(name)):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = (folder / path).resolve() if path else ROOT / name
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors_of(target.relative_to(ROOT)), f"{link}: no such heading"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name):
    for path in set(FILE.findall(text_of(name))) - FILES_OF_USERS:
        assert (ROOT / path).exists() or (ROOT / "videobench" / path).exists(), f"{path}: no such file"


@cache
def own_flags():
    """Of the scripts, the launchers, the shell scripts and the benchmarks."""
    found = {"--help"}
    for script in SCRIPTS:
        shown = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        found |= set(FLAG.findall(shown.stdout))
    sources = [*ROOT.glob("*.sh"), *(ROOT / "benchmarks").glob("*.py")]
    return found | {flag for path in sources for flag in FLAG.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", [each for each in DOCUMENTS if each != "CHANGELOG.md"])  # it names flags that are gone
def test_flags_that_are_named_exist(name):
    assert set(FLAG.findall(text_of(name))) <= own_flags() | set().union(*FOREIGN_FLAGS.values())


def test_the_tree_has_a_line_for_every_module():
    [tree] = [content for _, _, content in FENCE.findall(text_of("videobench/README.md"))]
    folders, named = [], set()
    for line in tree.splitlines():
        entry, _, description = line.partition("#")
        depth = (len(entry) - len(entry.lstrip())) // 2
        folders[depth:] = [entry.strip().rstrip("/")]
        if entry.strip().endswith(".py"):
            assert description.strip(), f"{line}: says nothing"
            named.add("/".join(folders))
    modules = [path for path in (ROOT / "videobench").rglob("*.py") if path.name != "__init__.py"]
    assert named == {path.relative_to(ROOT).as_posix() for path in modules} | {"videobench/__init__.py"}


@cache
def texts_of_the_program():
    """Each text in the package, docstrings left out, and each line of the shell scripts: its fixed parts, in order."""
    texts = [re.split(r"\$\{?\w+\}?", line) for path in ROOT.glob("*.sh") for line in path.read_text().splitlines()]
    for path in (ROOT / "videobench").rglob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        texts += [
            [part.value for part in node.values if isinstance(part, ast.Constant)] for node in nodes if is_f(node)
        ]
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts += [[node.value] for node in nodes if is_text(node) and id(node) not in docstrings]
    pieces = [[piece.strip() for part in text for piece in re.split(r"[;:,()]", part)] for text in texts]
    return [[piece for piece in text if len(piece) >= 3] for text in pieces]


def is_f(node):
    return isinstance(node, ast.JoinedStr)


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_said_by(pieces, message):
    """Whether a third of the message or more are these fixed parts of a text, in their order."""
    position = found = 0
    for piece in pieces:
        if (at := message.find(piece, position)) >= 0:
            position, found = at + len(piece), found + len(piece)
    return 3 * found >= len(message)


def test_messages_that_are_quoted_are_the_programs():
    """The first cell of each row of a table of messages or of reasons in a result file."""
    heads = ("it says", "reason in the result file")
    tables = [table for table in tables_of("docs/troubleshooting.md") if table[0][0].strip() in heads]
    quoted = [code for table in tables for row in table[1:] for code in CODE.findall(row[0])]
    assert quoted
    unknown = [each for each in quoted if not any(is_said_by(pieces, each) for pieces in texts_of_the_program())]
    assert not unknown


def json_block(name, key):
    """The code block of a document whose object, or its only row, has this key."""
    blocks = [json.loads(content) for language, content in blocks_of(name) if language == "json"]
    [found] = [each for block in blocks for each in (block, *block.values()) if isinstance(each, dict) and key in each]
    return found


def test_the_keys_of_the_report_are_documented(tmp_path):
    rows = {f"MSVD/{k}": {"dataset": "MSVD", "output_sequence": ["A"], "letter_logprobs": LOGPROBS} for k in range(20)}
    for side in ("npu", "gpu"):
        (tmp_path / f"{side}.json").write_text(json.dumps(rows))
    (tmp_path / "answers.json").write_text(json.dumps({"MSVD": dict.fromkeys(map(str, range(20)), "A")}))
    paths = [f"--eval_{side}_path={tmp_path}/{side}.json" for side in ("npu", "gpu")]
    command = [*paths, f"--sampling_answer_path={tmp_path}/answers.json", f"--output_json={tmp_path}/report.json"]
    subprocess.run([sys.executable, "precision_test.py", *command], cwd=ROOT, capture_output=True, check=True)
    [table] = [each for each in tables_of("docs/files.md") if "`decided_by`" in str(each)]
    documented = [key for row in table[1:] for key in CODE.findall(row[0])]
    assert sorted(documented) == sorted(json.loads((tmp_path / "report.json").read_text()))


def test_a_row_has_the_fields_of_its_example():
    assert set(json_block("docs/files.md", "output_sequence")) <= ROW_FIELDS


def test_the_limits_that_are_named_are_constants():
    [limits] = [table for table in tables_of("SECURITY.md") if table[0][0].strip() == "limit"]
    for module, constant in re.findall(r"`(\w+)\.([A-Z_]+)`", str(limits)):
        [path] = (ROOT / "videobench").rglob(f"{module}.py")
        assert re.search(rf"^{constant} = ", path.read_text(encoding="utf-8"), re.MULTILINE), f"{module}.{constant}"


def test_the_examples_of_style_are_in_the_code():
    code = "\n".join(path.read_text() for folder in ("videobench", "tests") for path in (ROOT / folder).rglob("*.py"))
    lines = [
        line
        for language, content in blocks_of("CONTRIBUTING.md")
        if language == "python"
        for line in content.splitlines()
    ]
    assert lines
    assert not [line for line in lines if line.strip() not in code]


def test_simulated_percentages_are_those_of_the_benchmark():
    [readme] = [each for each in text_of("README.md").split("\n\n") if "How far to trust it" in each]
    [table] = [str(each) for each in tables_of("docs/verdict.md") if "1000 questions" in str(each)]
    for text in (readme, table):
        decimals = {number for number in numbers_in(text) if "." in number}
        assert decimals
        assert decimals <= set(numbers_in(text_of("benchmarks/README.md")))


def test_the_version_is_one():
    [project] = re.findall(r'^version = "(.+?)"', text_of("pyproject.toml"), re.MULTILINE)
    released = re.findall(r"^## (\d\S*)", text_of("CHANGELOG.md"), re.MULTILINE)
    assert project == SUITE_VERSION == released[0]
