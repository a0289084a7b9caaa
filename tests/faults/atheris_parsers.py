"""The parsers of `tests.faults.parsers` on input that `atheris` finds by coverage. It is not among the dependencies:

python -m venv fuzz && fuzz/bin/pip install atheris
PYTHONPATH=.venv/lib/python3.11/site-packages fuzz/bin/python -m tests.faults.atheris_parsers PARSER MINUTES
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["engine"]):
    from tests.faults import parsers


def main() -> None:
    """Fuzz one parser; libFuzzer ends the process, with 77 at an exception that is no refusal."""
    name, minutes = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        parser = parsers.parsers(Path(place))[name]
        corpus = Path(place) / "corpus"
        corpus.mkdir()
        for number, sample in enumerate(parser.samples):
            (corpus / str(number)).write_bytes(sample)

        def once(data: bytes) -> None:
            with suppress(*parser.refuses):
                parser.parse(data)

        limits = [f"-max_total_time={float(minutes) * 60:.0f}", "-seed=1", "-rss_limit_mb=4096", "-max_len=8192"]
        atheris.Setup([sys.argv[0], str(corpus), *limits], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
