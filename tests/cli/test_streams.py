"""Whatever terminal or pipe stands behind a command: no traceback, and ASCII where ASCII is all that is shown."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.make_slides import Drawing, draw_tiff, tissue_image

# One process for many commands: imports take longer than what they do.
COMMANDS = """
import sys
from muse_core.cli.app import main
folder = sys.argv[1]
for words in {commands!r}:
    sys.argv = ["muse", *(word.replace("FOLDER", folder) for word in words)]
    try:
        main()
    except SystemExit as end:
        sys.stdout.write(f"[{{words[0]}} ended with {{end.code}}]\\n")
"""
TOLD = [
    ["--help"],
    ["infer", "--help"],
    ["doctor", "FOLDER/Gewebe µm².tif"],
    ["doctor", "FOLDER/no-mpp.tif"],
    ["manifest", "check", "FOLDER"],
    ["infer", "--slides", "FOLDER/no such µ.svs", "--out", "FOLDER/out"],
    ["build-tcga-nu", "--manifest", "FOLDER/none.csv", "--out", "FOLDER/out"],
    ["report", "--nuclei", "FOLDER/µ", "--out", "FOLDER/r.html"],
    ["export", "qupath", "--nuclei", "FOLDER/µ", "--slide-id", "µ", "--out", "FOLDER/q.geojson"],
    ["status", "--out", "FOLDER/µ"],
    ["finetune", "--help"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("slides")
    image = tissue_image(300, 200, mpp=0.5)[0]
    draw_tiff(made / "Gewebe µm².tif", image, Drawing(factors=(1,), mpp=(0.5, 0.5)))
    draw_tiff(made / "no-mpp.tif", image, Drawing(factors=(1,), mpp=None))
    return made


def run(code: str, *words: object, unset: tuple[str, ...] = ("PYTHONIOENCODING", "LC_ALL", "LC_CTYPE"), **given: str):
    environment = {name: value for name, value in os.environ.items() if name not in unset} | given
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C"}, {"LC_ALL": "POSIX"}])
def test_an_ascii_terminal_gets_ascii_from_every_command(folder, environment):
    done = run(COMMANDS.format(commands=TOLD), folder, **environment)
    said = done.stdout + done.stderr
    assert not [byte for byte in said if byte > 127], said.decode(errors="replace")
    assert b"Traceback" not in said, said.decode()
    text = done.stdout.decode()
    assert text.count(" ended with ") == len(TOLD), text
    assert "um/px" in text
    assert "[infer ended with 1]" in text


@pytest.mark.slow
def test_elsewhere_a_name_is_written_as_it_is(folder):
    done = run(COMMANDS.format(commands=[["doctor", "FOLDER/Gewebe µm².tif"]]), folder, PYTHONIOENCODING="utf-8")
    assert "µm².tif" in done.stdout.decode("utf-8").replace("\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_costs_its_text_alone(folder, unbuffered):
    read, write = os.pipe()
    os.close(read)
    code = COMMANDS.format(commands=[["--help"], ["manifest", "check", "FOLDER"]]).replace("sys.stdout", "sys.stderr")
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(write)
    assert done.returncode == 0
    assert done.stderr.decode().count(" ended with 0]") == 2, done.stderr.decode()
    assert b"Broken" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full"])
def test_streams_that_are_closed_or_full_cost_their_text_alone(folder, closed):
    words = f"'{sys.executable}' -m muse_core.cli manifest check '{folder}' {closed}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr.decode()


WRITES = """
import os, sys
from muse_core.cli.streams import steady_streams
steady_streams()
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything(unbuffered):
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = WRITES + "for number in range(40000): print(f'row {number} \u00b5m')\nsys.stdout.flush()"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, env=environment
    ) as writer:
        os.close(write)
        time.sleep(0.5)  # the pipe is full before anybody reads
        with os.fdopen(read, encoding="utf-8") as pipe:
            rows = pipe.read().splitlines()
        assert writer.wait(timeout=60) == 0, writer.stderr.read().decode()
    assert rows == [f"row {number} \u00b5m" for number in range(40000)]


def test_what_does_not_fit_on_a_full_disk_is_lost_alone(tmp_path):
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    soft = "resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))\n"
    code = WRITES + limit + soft.format(8) + "print('x' * 8); print('lost', flush=True)\n"
    code += soft.format("resource.RLIM_INFINITY") + "print('kept', flush=True)"
    with (tmp_path / "out").open("w") as out:
        assert subprocess.run([sys.executable, "-c", code], stdout=out, check=False).returncode == 0
    assert (tmp_path / "out").read_text().endswith("kept\n")
