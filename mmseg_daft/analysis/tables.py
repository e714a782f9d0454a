"""The findings on the console: two tables, one of features and one of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mmseg_daft.analysis.findings import Findings


def show_findings(console: Console, findings: Findings, last_stage_only: bool = False) -> None:
    """Print the summary, and the notes that change how it is read."""
    from mmseg_daft.analysis.report import shown
    from mmseg_daft.core.distortion import KINDS

    features = Table(title='Feature distortion, before vs after (medians with 95 % intervals)', title_style='bold')
    for head in ('stage', 'method'):
        features.add_column(head)
    for head in ('cosine similarity,\nper image', 'L2 distance,\nper image', 'cosine similarity,\nper pixel',
                 'linear\nCKA', 'CKA,\ndebiased'):
        features.add_column(head, justify='right')
    last = None
    rows = findings.summary()
    if last_stage_only:
        rows = [row for row in rows if row['stage'] == list(findings.stages)[-1]]
    for row in rows:
        if last not in (None, row['stage']):
            features.add_section()
        features.add_row('' if row['stage'] == last else str(row['stage']), str(row['method']), *(
            shown(row[key]) for key in ('cosine', 'l2', 'pixel_cosine', 'cka', 'debiased_cka')))
        last = row['stage']
    parameters = Table(title='Relative change of parameters (Eq. 6), medians over layers', title_style='bold')
    parameters.add_column('method')
    for head in (*KINDS.values(), 'mean drift', 'variance drift'):
        parameters.add_column(head.replace(' of ', '\nof '), justify='right')
    parameters.add_column('W: the value before')
    for row in findings.change_summary():
        parameters.add_row(str(row['method']), *(
            shown(row[key]) for key in (*KINDS, 'mean_drift', 'variance_drift', 'reference')))
    console.print()
    console.print(features)
    console.print(parameters)
    for note in findings.notes[2 + len(findings.methods):]:
        console.print(f'Note: {note}', style='yellow', markup=False)
