"""One analysis from models and data to the report on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmseg_daft.analysis.contact_sheet import Scene, choose
from mmseg_daft.analysis.data import Images, open_images
from mmseg_daft.analysis.findings import Findings
from mmseg_daft.analysis.models import LoadedModel, changes_of, load_run, load_start
from mmseg_daft.analysis.report import write_report
from mmseg_daft.analysis.report_figures import report_figures
from mmseg_daft.analysis.run import Analyser, over_ranks, stage_places
from mmseg_daft.analysis.styles import save_figure
from mmseg_daft.analysis.tidy_file import write_tidy
from mmseg_daft.console import quiet

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Options:
    """How to analyse.

    Attributes:
        pretrained: A checkpoint of the pre-trained model; ``None`` for what the config starts from.
        stages: Of the backbone, counted from 1; or ``('all',)``.
        split: Of the config's data.
        out: Where everything is written.
        batch_size: Images at once.
        workers: Processes that load them.
        images: At most so many, evenly spread over the split; ``None`` for all.
        amp: Half precision.
        recompute: Convert again where a converted run kept no tensors of it.
        sheets: Whether to draw the contact sheets.
        formats: Of the figures.
        rank: This process, of ``world_size``.
        world_size: How many share the images.
        device: Where to compute; ``None`` for the first GPU or else the CPU.
    """

    out: Path
    pretrained: Path | None = None
    stages: Sequence[str] = ('all',)
    split: str = 'test'
    batch_size: int = 1
    workers: int = 2
    images: int | None = None
    amp: bool = False
    recompute: bool = False
    sheets: bool = True
    formats: Sequence[str] = ('png', 'pdf', 'svg')
    rank: int = 0
    world_size: int = 1
    device: str | None = None


def analyse(
    cfg: Config, runs: dict[str, Path], options: Options, report: Report,
) -> Findings | None:
    """Measure, draw and write.

    Args:
        cfg: The config.
        runs: By method, a checkpoint or run folder.
        options: How.
        report: Told of the progress.

    Returns:
        What was found; ``None`` in all processes but the first.

    Raises:
        ValueError: Models or data do not fit; the message says the fix.
    """
    device = torch.device(options.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    with quiet():
        start = load_start(cfg, options.pretrained, device)
        loaded = [load_run(cfg, name, path, device) for name, path in runs.items()]
        places = stage_places(start.model, options.stages)
        images = open_images(cfg, options.split)
    numbers = _spread(len(images.names), options.images)
    mine = numbers[options.rank::options.world_size]
    analyser = Analyser(start, loaded, images, places, device, options.amp)
    meters = over_ranks(analyser.measure(
        mine, options.batch_size, options.workers, lambda done: report('Measure images', done, len(mine))))
    if options.rank:
        return None
    report('Compare parameters', 0, len(loaded))
    changes, notes = {}, []
    for done, run in enumerate(loaded, start=1):
        with quiet():
            changes[run.name], more = changes_of(run, start, options.recompute)
        notes += more
        report('Compare parameters', done, len(loaded))
    findings = Findings(
        tuple(runs), meters, changes, images.classes if images.labelled else (), images.names,
        (*_describe(cfg, options, images, numbers, [start, *loaded]), *notes))
    sheets = _sheets(analyser, findings, report) if options.sheets else {}
    (options.out / 'figures').mkdir(parents=True, exist_ok=True)
    figures = list(report_figures(findings, sheets, images.palette))
    for done, figure in enumerate(figures, start=1):
        save_figure(figure.figure, options.out / 'figures', figure.name, options.formats)
        report('Draw figures', done, len(figures))
    write_tidy(findings, options.out / 'numbers.csv')
    write_report(options.out / 'report.html', f'Feature distortion: {", ".join(runs)}', findings, figures)
    return findings


def _sheets(analyser: Analyser, findings: Findings, report: Report) -> dict[tuple[str, bool], list[Scene]]:
    """Choose the least and the most distorted images by the last stage, and look at them again."""
    stage, meter = list(findings.stages.items())[-1]
    chosen = {(run.name, most): choose(meter.methods[run.name].images, len(findings.classes), most)
              for run in analyser.runs for most in (False, True)}
    total, sheets = sum(map(len, chosen.values())), {}
    runs = {run.name: run for run in analyser.runs}
    for (method, most), choices in chosen.items():
        done = sum(map(len, sheets.values()))
        sheets[method, most] = []
        for choice in choices:
            sheets[method, most].append(analyser.scene(runs[method], choice, stage))
            report('Look at the chosen ones', done + len(sheets[method, most]), total)
    return sheets


def _spread(total: int, most: int | None) -> list[int]:
    if most is None or most >= total:
        return list(range(total))
    return [i * total // most for i in range(most)]


def _describe(
    cfg: Config, options: Options, images: Images, numbers: Sequence[int], models: Sequence[LoadedModel],
) -> list[str]:
    few = '' if len(numbers) == len(images.names) else f', evenly spread over {len(images.names)}'
    notes = [f'Data: {len(numbers)} images of the {options.split} split{few}'
             f'{"" if images.labelled else ", without ground truth"}; {type(images.dataset).__name__}, '
             f'config {Path(cfg.filename).name if cfg.filename else "without a name"}.',
             f'Before: the pre-trained model, {models[0].source}.',
             *(f'{model.name}: {model.source}.' for model in models[1:])]
    if not models[0].predicts:
        notes.append('The pre-trained weights have no head that fits, so there are no predictions before fine-tuning.')
    notes += [f'{model.name}: the head does not fit the config, so its predictions are not shown.'
              for model in models[1:] if not model.predicts]
    if options.amp:
        notes.append('Computed in half precision (AMP): distortions below about 0.001 are rounding.')
    if len(numbers) < 5:
        notes.append(f'With {len(numbers)} image{"s" * (len(numbers) > 1)} there are no intervals, and CKA is not to '
                     'be relied on.')
    return notes
