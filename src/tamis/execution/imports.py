"""The modules that a program names: where it cannot open files, they must be loaded before it runs."""

from __future__ import annotations

import re

# What one could import of the standard library to compute something. Loaded from the start, they would take as long as
# all else together; a worker loads them when the first program names them, and keeps them.
_ON_DEMAND = (
    "argparse asyncio base64 binascii cmd code colorsys concurrent.futures configparser csv difflib email fnmatch "
    "getopt gettext glob graphlib gzip hmac html html.parser ipaddress logging multiprocessing optparse pathlib "
    "pickle pickletools platform pprint profile sched secrets shlex shutil sqlite3 subprocess symtable tarfile "
    "tempfile timeit tracemalloc unittest unittest.mock urllib urllib.parse uuid xml xml.etree.ElementTree zipfile "
    "zlib zoneinfo"
)
ON_DEMAND = frozenset(_ON_DEMAND.split())
# What modules import only once they are used.
LATER = {
    "asyncio": ("concurrent.futures.thread",),
    "concurrent.futures": ("concurrent.futures.thread",),
    "urllib": ("urllib.parse",),
    "xml": ("xml.etree.ElementTree",),
}
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b([^#\n]*)|import[ \t]+([^#\n;]+))", re.MULTILINE)
_NAME = re.compile(r"[\w.]+")


def named_modules(source: str) -> frozenset[str]:
    """Those of the modules on demand that the source imports, by its text: it need not compile."""
    names: set[str] = set()
    for package, members, listed in _IMPORT.findall(source):
        if package:
            names |= {package, *(f"{package}.{member}" for member in _NAME.findall(members))}
        else:
            names |= set(_NAME.findall(listed))
    found = names & ON_DEMAND
    return frozenset(found.union(*(LATER.get(name, ()) for name in found)))
