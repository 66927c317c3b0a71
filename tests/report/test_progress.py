from dhcli.report.progress import counting


def test_piped_progress_is_a_line_every_tenth(capsys) -> None:
    with counting("images") as progress:
        for done in range(1, 101):
            progress(done, 100)

    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("10/100 images, ")
    assert lines[-1].startswith("100/100 images, ")
    assert "\r" not in said.err
    assert "\x1b" not in said.err
    assert not said.out
