"""A report as Markdown, for a CI's page or an issue: the lines to act on, then the text of the terminal."""

import re

from videobench.compare.report.as_json import Json
from videobench.compare.report.terminal import build_text, visible

# @ and # would link people and issues; so would what GitHub takes for an address.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!@&$]|:(?=//)|(?<=www)\.)", re.IGNORECASE)


def build_markdown(report: Json) -> str:
    """`report` is as_json.build_report's. Names from the files make no markup and no link, and do not end the fence."""
    summary, text = report["summary"], build_text(report)
    lines = [
        f"**{_escaped(summary['verdict'])}**",
        "",
        f"- **Numbers**: {_escaped(summary['numbers'])}",
        f"- **Next**: {_escaped(summary['next_step'])}",
        *(f"- {_escaped(reason)}" for reason in report["reasons"]),
    ]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return "\n".join([*lines, "", f"{fence}text", text, fence]) + "\n"


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", visible(text))
