from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgebench.results.record import Record
from hedgebench.results.tables.latex import escape_latex
from hedgebench.results.tables.leaderboard import leaderboard_latex

MakeRecord = Callable[..., Record]
HOSTILE = r"""\input{/etc/passwd} $x$ a_b^c {d} %e #f ~g & "h" 'i' `j` <k>|l -- --- \\end{tabular} """


def test_every_sign_that_latex_reads_as_a_command_is_escaped() -> None:
    assert escape_latex("a_b & 5% #1 $x$ {y}") == r"a\_b \& 5\% \#1 \$x\$ \{y\}"
    assert escape_latex("\\end") == r"\textbackslash{}end"
    assert escape_latex("~^") == r"\textasciitilde{}\textasciicircum{}"
    assert escape_latex("a--b---c") == "a-{}-b-{}-{}-c"
    assert escape_latex("± ↑ ↓") == r"$\pm$ $\uparrow$ $\downarrow$"
    assert escape_latex("a\x00\nb\tc") == "a b c"
    bare = re.sub(r"\\[A-Za-z]+\{\}|\\[\\{}$&%#_]|-\{\}", "", escape_latex(HOSTILE))
    assert not set(bare) & set('\\{}$&%#_~^"')


def test_the_tables_are_in_the_style_of_booktabs_and_the_best_is_bold(showcase: list[Record]) -> None:
    text = leaderboard_latex(showcase)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 4
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 4
    assert r"model & glue/cola & glue/sst2 & wikitext2 & glue \\" in text
    assert r"softmax & 0.580 $\pm$ 0.030\,$^{1=}$ & " in text
    assert r"\textbf{20.100} $\pm$ 0.058\,$^{1}$ & " in text
    assert r"& 21.400 $\pm$ 0.058 (93.9\%)\,$^{2}$ & 95.4 over 2 of 8 \\" in text
    assert r"cosformer & \textendash{} & \textendash{} & OOM & \textendash{} \\" in text
    assert r"taylor:feature\_dim=16" in text


def test_every_line_of_a_table_has_as_many_columns_as_its_head(showcase: list[Record]) -> None:
    for table in leaderboard_latex(showcase).split(r"\begin{tabular}")[1:]:
        columns = len(table[1 : table.index("}")])
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {columns}


def test_a_second_line_of_headings_stands_where_a_column_has_more_to_say(showcase: list[Record]) -> None:
    heads = [
        part.split(r"\midrule")[0].strip().splitlines() for part in leaderboard_latex(showcase).split(r"\toprule")[1:]
    ]
    assert {len(head) for head in heads} == {1, 2}
    assert all(re.search(r"\w", line) for head in heads for line in head)


def test_no_records_give_a_file_that_says_so() -> None:
    assert leaderboard_latex([]).endswith("% No results yet.\n")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
def test_latex_sets_the_tables_whatever_a_record_says(
    showcase: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    tables = leaderboard_latex([*showcase, make_record(HOSTILE, HOSTILE), make_record("elu", HOSTILE)])
    head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\\usepackage{textcomp}"
    (tmp_path / "t.tex").write_text(f"{head}\\begin{{document}}\n{tables}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
