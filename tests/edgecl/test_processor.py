"""What a processor is called, by lines of /proc/cpuinfo as they are on boards."""

import os
from pathlib import Path

from edgecl.processor import processor

ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08

processor\t: 1
Features\t: fp
"""


def test_model_and_instructions_tell_processors_apart(tmp_path: Path) -> None:
    names = []
    for number, text in enumerate((ARM, ARM.replace("asimd", "asimd sve"), ARM.replace("0xd08", "0xd0b"), "")):
        (tmp_path / str(number)).write_text(text)
        names.append(processor(tmp_path / str(number)))
    assert len(set(names)) == 4
    assert all(name.startswith(os.uname().machine) for name in names)
    assert "0x41 0xd08 0x0" in names[0]
    assert processor(tmp_path / "none") == names[-1] == os.uname().machine
    assert processor() == processor(), "of this machine"


def test_the_order_of_instructions_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(ARM)
    (tmp_path / "other").write_text(ARM.replace("fp asimd evtstrm", "evtstrm asimd fp"))
    assert processor(tmp_path / "one") == processor(tmp_path / "other")
