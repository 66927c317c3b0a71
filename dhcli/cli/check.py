"""`dh check`: what is wrong with a dataset, and a mended copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.options import (
    ConfigFile,
    Dataset,
    FollowLinks,
    JsonFlag,
    Overrides,
    Overwrite,
    PlaceImages,
    SourceFormat,
    VocOffset,
    preset_option,
)
from dhcli.config.load import load_config
from dhcli.data.tools.findings import CODES, Finding

if TYPE_CHECKING:
    from dhcli.config.schema import Config
    from dhcli.data.formats import Images
    from dhcli.data.table import DetectionTable
    from dhcli.data.tools.scan import Scan
    from dhcli.data.tools.statistics import Statistics
    from dhcli.studies.anchors import AnchorRecall

LOG = "changes.log"
"""The file in a mended dataset that lists what was found."""


def check(
    data: Dataset,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode", help="Decode every image, which finds all damage but takes longer."
        ),
    ] = False,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="DST",
            help=f"Write a mended copy to this folder, with {LOG}: what was found and mended.",
        ),
    ] = None,
    images: PlaceImages = "copy",
    follow_links: FollowLinks = False,
    overwrite: Overwrite = False,
    from_: SourceFormat = None,
    voc_offset: VocOffset = "auto",
    preset: Annotated[str | None, preset_option("none: anchors are not checked")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    all_: Annotated[
        bool,
        typer.Option("--all", help="List every finding (default: the first five of each kind)."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find what is wrong with a dataset. The exit code is 1 if there are errors.

    Training makes the same checks, except --decode. With --preset, the boxes are also compared with
    the preset's anchors. If the preset names its classes, boxes of other classes are left out of
    this comparison.

    For example:
      dh check photos/
      dh check photos/ --decode --fix photos-mended/
      dh check photos/ --preset small
    """
    from dhcli.atomic import require_free
    from dhcli.config.schema import Config
    from dhcli.data.formats import describe, read_dataset
    from dhcli.data.tools.check import check_table
    from dhcli.data.tools.scan import scan_images
    from dhcli.data.tools.statistics import describe_crowd, measure
    from dhcli.report.console import err, print_json

    settings = _settings(preset, config, overrides)
    if fix:
        require_free(fix, overwrite=overwrite, inputs=[data])
    table = read_dataset(data, format=from_, voc_offset=voc_offset)
    err.print(f"{data}: {describe(table)}")
    scan = scan_images(table, decode=decode)
    findings = check_table(table, scan)
    numbers = measure(table)
    recall = _measure_anchors(table, settings, findings) if settings else None
    if as_json:
        print_json(
            {
                "data": str(data),
                "format": table.format,
                "notes": list(table.notes),
                "findings": [_as_dict(finding) for finding in findings],
                "statistics": asdict(numbers),
                "anchors": recall and recall.as_dict(),
            }
        )
    else:
        _show(data, findings, numbers, recall, every=all_)
        crowd = describe_crowd(table, (settings or Config()).model.detect.max_detections)
        if crowd:
            err.print(crowd)
    if fix:
        _write_fixed(table, scan, findings, fix, images, overwrite=overwrite, follow=follow_links)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _show(
    data: Path,
    findings: Sequence[Finding],
    numbers: Statistics,
    recall: AnchorRecall | None,
    *,
    every: bool,
) -> None:
    from dhcli.report.console import out
    from dhcli.report.dataset import MOST_CLASSES, split_sheet
    from dhcli.report.findings import SHOWN, count_line, findings_text
    from dhcli.report.terminal import show

    out.print(findings_text(findings, None if every else SHOWN))
    if numbers.splits:
        show(split_sheet(numbers), most=MOST_CLASSES)
    if recall:
        show(recall.sheet(), most=MOST_CLASSES)
    out.print(f"{data}: {count_line(findings)}")


def _settings(
    preset: str | None, config: Path | None, overrides: list[str] | None
) -> Config | None:
    """The configuration whose anchors count; None where none is asked for."""
    if preset is None and config is None and not overrides:
        return None
    return load_config(preset, file=config, overrides=overrides or ()).config


def _measure_anchors(
    table: DetectionTable, settings: Config, findings: list[Finding]
) -> AnchorRecall:
    """How the anchors fit the classes to learn; those that they miss join the `findings`."""
    from dhcli.studies.anchors import measure_anchors  # torch loads here

    if settings.data.classes is not None:
        table = table.with_classes(settings.data.classes, others="ignore")
    recall = measure_anchors(table, settings)
    findings += recall.findings(settings)
    return recall


def _as_dict(finding: Finding) -> dict[str, str]:
    about = CODES[finding.code]
    place = {"code": finding.code, "severity": about.severity, "where": finding.where}
    return place | {"what": finding.what, "training": about.training, "fix": about.fix}


def _write_fixed(
    table: DetectionTable,
    scan: Scan,
    findings: Sequence[Finding],
    destination: Path,
    images: Images,
    *,
    overwrite: bool,
    follow: bool,
) -> None:
    """Write the mended dataset in the format it was read from."""
    from dhcli.data.formats import held, write_dataset
    from dhcli.data.tools.mend import mend_for_good
    from dhcli.report.console import err

    fixed = mend_for_good(table, scan)
    log = "".join(
        f"{f.severity} {f.code} {f.where}: {f.what} ({CODES[f.code].fix})\n" for f in findings
    )
    lost = write_dataset(
        fixed,
        destination,
        table.format,
        images=images,
        beside={LOG: log},
        overwrite=overwrite,
        follow=follow,
    )
    for line in lost:
        err.print(line)
    written = held(fixed, table.format)
    err.print(
        f"{destination}: {len(written)} of {len(table)} images, {len(written.boxes)} of "
        f"{len(table.boxes)} boxes, {len(fixed.classes)} of {len(table.classes)} classes; "
        f"what was found and mended: {destination / LOG}"
    )
