"""Each decoder that ships makes something in the demo, and the same again."""

import zoo
from zoo import demo_generate
from zoo.demo_generate import PICTURES, PROMPT, SPEECH, TEXT


def test_every_starter_decoder_makes_something_and_the_same_again(tmp_path):
    report = demo_generate.run(tmp_path / "one")
    again = demo_generate.run(tmp_path / "two")
    shipped = [name for name in (TEXT, *SPEECH, *PICTURES) if name in zoo.list_models()]
    assert [row[0] for row in report.rows] == [row[0] for row in again.rows] == shipped
    assert TEXT in shipped and (tmp_path / "one" / "generated.txt").read_text().startswith(PROMPT)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == len(shipped) == len(report.places)
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
