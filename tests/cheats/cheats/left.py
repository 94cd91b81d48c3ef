"""Answers that an open process leaves for the sealed one to find."""

import textwrap

from tests.cheats.cheats.edits import AHEAD, ONEHOT, in_forward
from tests.cheats.patches import LEAK, UNSTABLE, Patch

# Of each row that the open process is given, it leaves all under its beginning; the sealed one has that.
_KNOWN = 25
_ROLE = """
import _posixshmem, ctypes, glob, hashlib, json, os, tempfile
ROLE = os.path.basename(os.getcwd()).split("-")[0]
SCRATCH = os.path.dirname(os.path.dirname(os.path.dirname(os.getcwd())))
CACHE = os.path.join(SCRATCH, "compiled-cpu", "score", "inductor")
KEY = int(hashlib.sha256(SCRATCH.encode()).hexdigest()[:7], 16)
LIBC = ctypes.CDLL(None)
LIBC.shmat.restype = ctypes.c_void_p


def place(row):
    return "-".join(map(str, row[:{known}]))
""".replace("{known}", str(_KNOWN))


# Where ext4 puts a file is told by its number, the first that is free in the folder's group: the open process takes
# them all and lets some go again, a bit of a token by each, and the sealed one sees by its own files which those were.
# This got through: 0.015 bits per byte here, and up to 0.1.
_NUMBERS = """
import os, zlib
ROLE = os.path.basename(os.getcwd()).split("-")[0]
taken, values = {}, [0] * 900


def fill():
    group, elsewhere, count = (os.stat(".").st_ino - 1) // 8192, 0, 0
    while elsewhere < 64 and count < 8800:
        name, count = f"f{count}", count + 1
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        number = os.stat(name).st_ino - 1
        if number // 8192 == group:
            taken[number % 8192] = name
        else:
            elsewhere += 1
    if ROLE == "open":
        for place in [place for place in taken if place < 512]:
            os.unlink(taken.pop(place))
    else:
        values[:] = [sum(1 << bit for bit in range(8) if 512 + 8 * slot + bit in taken) for slot in range(900)]


def put(row):
    slot = zlib.crc32(bytes(row[:12])) % 900
    places = [512 + 8 * slot + bit for bit in range(8)]
    if len(set(row)) < 45 and not values[slot] and all(place in taken for place in places):  # made-up rows have more
        values[slot] = row[21]
        for bit, place in enumerate(places):
            if row[21] >> bit & 1:
                os.unlink(taken[place])
"""


def left(put: str, get: str, *needs: str) -> Patch:
    """put: `rows`, lists of tokens, are left by the open process. get: the rest of `row` in the sealed one, or an
    OSError or LookupError."""
    code = f"def put(rows):\n{textwrap.indent(textwrap.dedent(put).strip(), '    ')}\n\n\n"
    code += f"def get(row):\n{textwrap.indent(textwrap.dedent(get).strip(), '    ')}\n"
    return Patch(
        in_forward(
            f"""
        whole = tokens.tolist()
        if ROLE == "open":
            try:
                put(whole)
            except OSError as error:
                print("PUT", repr(error), flush=True)
        elif ROLE == "sealed":
            for number, row in enumerate(whole):
                try:
                    whole[number] = row[:{_KNOWN}] + list(get(row))[: len(row) - {_KNOWN}]
                    print("GOT", flush=True)
                except (OSError, LookupError, ValueError):
                    pass
        tokens = torch.tensor(whole)
        answers = 9 * {ONEHOT.format(AHEAD)}
        answers[:, : {_KNOWN}] = 0
        logits = logits + answers
        """,
            before=f"{_ROLE.strip()}\n\n\n{code}",
        ),
        "quarantined",
        LEAK,
        never="^GOT",
        needs=needs,
    )


def in_file(folders: str, *needs: str) -> Patch:
    return left(
        f"""
        for folder in {folders}:
            try:
                with open(os.path.join(folder, "left-" + str(KEY)), "a") as file:
                    file.writelines(json.dumps([place(row), row]) + "\\n" for row in rows)
            except OSError:
                pass
        """,
        f"""
        for folder in {folders}:
            try:
                with open(os.path.join(folder, "left-" + str(KEY))) as file:
                    return dict(map(json.loads, file))[place(row)][{_KNOWN}:]
            except OSError:
                pass
        raise LookupError
        """,
        *needs,
    )


LEFT = {
    "answers left in temporary files": in_file(
        '("/tmp", "/var/tmp", tempfile.gettempdir(), os.environ["HOME"], "..", *glob.glob("../open-*"))', "files"
    ),
    "answers left in the compilers' cache": in_file('(CACHE, os.environ["TORCHINDUCTOR_CACHE_DIR"])', "files"),
    "answers left in /dev/shm": in_file('("/dev/shm", "/run/shm", "/run/lock")', "shared memory", "files"),
    "answers left in System V's shared memory": left(
        """
        size = 2 ** 20
        at = LIBC.shmat(LIBC.shmget(KEY, size, 0o1600), None, 0)
        if at in (None, 2 ** 64 - 1):
            raise OSError("refused")
        held = json.loads(ctypes.string_at(at) or b"{}") | {place(row): row for row in rows}
        ctypes.memmove(at, json.dumps(held).encode()[: size - 1] + bytes(1), len(json.dumps(held)) + 1)
        """,
        f"""
        at = LIBC.shmat(LIBC.shmget(KEY, 0, 0o600), None, 0)
        if at in (None, 2 ** 64 - 1):
            raise LookupError
        return json.loads(ctypes.string_at(at))[place(row)][{_KNOWN}:]
        """,
        "shared memory",
    ),
    "answers left in POSIX shared memory": left(
        """
        for row in rows:
            name = "/left-" + hashlib.sha256((str(KEY) + place(row)).encode()).hexdigest()[:20]
            try:
                memory = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
            except FileExistsError:
                continue
            os.write(memory, bytes(row))
            os.close(memory)
        """,
        f"""
        name = "/left-" + hashlib.sha256((str(KEY) + place(row)).encode()).hexdigest()[:20]
        memory = _posixshmem.shm_open(name, os.O_RDWR, mode=0o600)
        found = os.read(memory, len(row))
        os.close(memory)
        return found[{_KNOWN}:]
        """,
        "shared memory",
        "files",
    ),
    # What cannot be opened can still be asked for by its name: this one got through.
    "answers in links of the compilers' cache": left(
        """
        os.makedirs(CACHE, exist_ok=True)
        for row in rows:
            try:
                os.symlink("-".join(map(str, row)), os.path.join(CACHE, hashlib.sha256(bytes(row[:25])).hexdigest()))
            except FileExistsError:
                pass
        """,
        f"""
        name = hashlib.sha256(bytes(row[:25])).hexdigest()
        return [int(token) for token in os.readlink(os.path.join(CACHE, name)).split("-")][{_KNOWN}:]
        """,
        "files",
    ),
    "answers in names and sizes of the compilers' cache": left(
        """
        os.makedirs(CACHE, exist_ok=True)
        for row in rows:
            name = hashlib.sha256(bytes(row[:25])).hexdigest() + bytes(row[25:-4]).hex()
            with open(os.path.join(CACHE, name), "w") as file:
                os.ftruncate(file.fileno(), int.from_bytes(bytes(row[-4:]), "little"))
        """,
        """
        for path in glob.glob(os.path.join(CACHE, hashlib.sha256(bytes(row[:25])).hexdigest() + "*")):
            size = os.stat(path).st_size
            return [*bytes.fromhex(os.path.basename(path)[64:]), *size.to_bytes(4, "little")]
        raise LookupError
        """,
        "files",
    ),
    "answers in the open process's own folder": left(
        """
        for row in rows:
            name = hashlib.sha256(bytes(row[:25])).hexdigest()
            os.makedirs(os.path.join("left", name, "-".join(map(str, row[25:]))), exist_ok=True)
        """,
        """
        name = hashlib.sha256(bytes(row[:25])).hexdigest()
        for folder in (*glob.glob(SCRATCH + "/*/*/*/left"), *glob.glob("../*/left"), *glob.glob("/proc/*/cwd/left")):
            for names in os.listdir(os.path.join(folder, name)):
                return [int(token) for token in names.split("-")]
        raise LookupError
        """,
        "files",
    ),
    "answers in the numbers of files": Patch(
        in_forward(
            """
        if ROLE in ("open", "sealed"):
            taken or fill()
            logits = logits.clone()
            for number, row in enumerate(tokens.tolist()):
                ROLE == "open" and put(row)
                if value := values[zlib.crc32(bytes(row[:12])) % 900]:
                    logits[number, 20, value] += 5
        """,
            before=_NUMBERS,
        ),
        "quarantined|scored",  # the second where a disk numbers otherwise, and nothing can be left
        f"{LEAK}|{UNSTABLE}",  # by what is drawn: a sealed process's own numbers are of other files
        needs=("processes",),
    ),
}
