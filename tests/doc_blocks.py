"""The code of a page of the documentation, block by block; scripts among them can be run as they are printed."""

import contextlib
import io
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    language: str
    line: int  # of its first line of code, from 1
    code: str
    caption: str = ""
    not_run: str = ""  # the reason
    run_by: str = ""  # the file of the test that runs it


DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. (?:code-block|code|sourcecode):: *(?P<language>\S*) *$")
COMMENT = re.compile(r"^ *\.\. (?P<kind>not run|run by): *(?P<text>\S.*)$")
CAPTION = re.compile(r"^ *:caption: *(\S.*)$")
OPTION = re.compile(r"^ *:[\w-]+:")


def blocks_of(text):
    """All code of a page in its order: directives, doctests that stand in the prose, and literal blocks (`::`)."""
    lines = text.splitlines()
    found, i, told = [], 0, {}
    while i < len(lines):
        directive = DIRECTIVE.match(lines[i])
        if comment := COMMENT.match(lines[i]):
            told, i = {comment["kind"].replace(" ", "_"): comment["text"]}, i + 1
        elif directive or lines[i].rstrip().endswith("::"):
            indent = len(lines[i]) - len(lines[i].lstrip())
            start, end = body(lines, i + 1, indent)
            language = directive["language"] if directive else "literal"
            if directive or not lines[i].lstrip().startswith(".. "):
                captions = [match[1] for match in map(CAPTION.match, lines[i + 1 : start]) if match]
                code = textwrap.dedent("\n".join(lines[start:end]))
                found.append(Block(language, start + 1, code, *captions, **told))
                i = max(end, i + 1)
            else:
                i += 1  # another directive: what it holds is prose
            told = {}
        elif lines[i].lstrip().startswith(">>> "):
            end = next((j for j in range(i, len(lines)) if not lines[j].strip()), len(lines))
            found.append(Block("python", i + 1, textwrap.dedent("\n".join(lines[i:end])), **told))
            i, told = end, {}
        else:
            told = {} if lines[i].strip() else told
            i += 1
    return found


def body(lines, start, indent):
    """Bounds of the lines indented deeper than `indent`, without the directive's options and the blanks around."""
    end = start
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    while start < end and (not lines[start].strip() or OPTION.match(lines[start])):
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return start, end


def output_of(script, page="doc/scaling.rst"):
    """Run the script of a page that has this caption as the main program, and return what it prints."""
    code = next(block.code for block in blocks_of((ROOT / page).read_text()) if block.caption == script)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, script, "exec"), {"__name__": "__main__"})
    return printed.getvalue().strip()
