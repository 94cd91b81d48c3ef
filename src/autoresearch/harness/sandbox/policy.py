"""What every candidate's process may read: Python, its packages, the system's libraries, and devices.

Never all of a home, of a repository, or of the folder where corpora and ledgers lie. Of a folder on Python's path that
is no installation, only what has been imported from it is readable.
"""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/run/opengl-driver"),
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives")),
    *(f"/etc/{name}" for name in ("passwd", "group", "nsswitch.conf", "localtime", "timezone", "nvidia")),
    *("/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf"),
    *("/proc", "/sys"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_GPUS = ("nvidia*", "dxg", "kfd", "dri")  # NVIDIA's, also under Windows; AMD's
_LIBRARIES = ("LD_LIBRARY_PATH",)
_TOOLS = ("CUDA_HOME", "CUDA_PATH", "TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH", "TRITON_CUOBJDUMP_PATH")


def installation(environ: Mapping[str, str], private: Path, home: str = "") -> tuple[Path, ...]:
    """Files and folders that Python, torch and compilers are made of, on this machine.

    environ: of the process. private: a folder below which lies what is nobody's to read, such as the engine's scratch.
    home: the user's, where it may be another than the system has noted.
    """
    homes = [Path(home)] if home.startswith("/") else []
    with contextlib.suppress(KeyError):  # a user without an entry, as in some containers
        homes.append(Path(pwd.getpwuid(os.getuid()).pw_dir))

    def wide(path: Path) -> bool:
        return os.path.lexists(path / ".git") or any(one.resolve().is_relative_to(path) for one in (*homes, private))

    found = [Path(name) for name in _SYSTEM]
    found += _python(wide)
    found += [path for path in _from(environ, (*_LIBRARIES, *_TOOLS)) if not wide(path)]
    found += [path for path in _linked() if not wide(path)]
    for folder in _from(environ, ("PATH",)):
        around = folder.parent  # of a compiler's programs: its libraries
        whole = not wide(around) and not any(around.is_relative_to(one.resolve()) for one in homes)
        found += [around if whole else folder] if not wide(folder) else []
    found += [library if wide(library.parent) else library.parent for library in _loaded()]
    return tuple(dict.fromkeys(found))


def make_devices() -> None:
    """Have NVIDIA's driver make its devices, where nobody has used the GPU since the machine was started: confined
    processes cannot."""
    if not Path("/dev/nvidia-uvm").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["nvidia-modprobe", "-u", "-c", "0"], capture_output=True, timeout=30, check=False)


def devices(device: str) -> list[Path]:
    """What may be read, written and controlled. device: cpu, cuda or mps."""
    names = _GPUS if device == "cuda" else ()
    return [*(Path("/dev", name) for name in _DEVICES), *(path for name in names for path in Path("/dev").glob(name))]


def _python(wide: Callable[[Path], bool]) -> Iterator[Path]:
    """What Python finds its modules in: whole, where packages are installed, and else as far as it was imported."""
    prefixes = [Path(one).resolve() for one in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    for path in dict.fromkeys([*prefixes, *(Path(entry).resolve() for entry in sys.path)]):
        installed = any(path.is_relative_to(one) for one in prefixes) or any(path.glob("*.dist-info"))
        if installed and not wide(path):
            yield path
            continue
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if "." not in name and file and Path(file).resolve().is_relative_to(path):
                place = Path(file).resolve()
                yield place.parent if place.name == "__init__.py" else place


def _from(environ: Mapping[str, str], names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        for entry in environ.get(name, "").split(os.pathsep):
            if entry.startswith("/"):
                yield Path(entry).resolve()


def _linked() -> Iterator[Path]:
    """Folders that the dynamic linker was told of."""
    for file in [Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))]:
        try:
            lines = file.read_text().split()
        except OSError:
            continue
        yield from (Path(line).resolve() for line in lines if line.startswith("/") and "*" not in line)


def _loaded() -> Iterator[Path]:
    """Libraries that this process has loaded, from wherever."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    names = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and ".so" in line}
    yield from (Path(name) for name in sorted(names) if name.startswith("/") and not name.startswith("/dev"))
