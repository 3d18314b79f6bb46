"""Install real BVLC Caffe 1.0.0, which Debian 11 packages.

It goes to the user's cache folder and takes 1.4 GB. Needs a Debian machine and
root rights to install; using it afterwards needs neither. Does nothing if it is
there and works, and resumes an interrupted installation.

Example:
  ilgnet setup-bvlc
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.run import bvlc
from torchcaffe.base.errors import CaffeError

SUITE = "bullseye"
PACKAGES = (
    "caffe python3-caffe libopenblas0-pthread python3-lmdb python3-opencv python3-pytest python3-tqdm python3-jinja2"
).split()
MOUNTED = ("proc", "sys", "dev/pts", "dev/shm", "dev", "run")  # what may be mounted below a root, inner ones first
OTHERWISE = (
    "on Ubuntu 18.04 to 22.04 `apt install caffe-cpu python3-caffe-cpu` instead; elsewhere --engine bvlc uses any "
    "pycaffe that python3 can import"
)
CHECK = """
import caffe, cv2, lmdb, h5py, numpy
assert len(caffe.layer_type_list()) > 50
blas = [line.split()[-1] for line in open('/proc/self/maps') if 'openblas' in line]
assert blas, 'Caffe does not use OpenBLAS'
print('pycaffe', caffe.__version__, 'numpy', numpy.__version__, 'cv2', cv2.__version__)
"""


def os_release() -> dict:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def debian_mirror(folder: Path = Path("/etc/apt"), release: dict | None = None) -> str | None:
    """The mirror that this machine's own apt sources name for its Debian release; None: leave it to debootstrap."""
    release = os_release() if release is None else release
    suite = release.get("VERSION_CODENAME")
    if release.get("ID") != "debian" or not suite:
        return None
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            found = re.match(rf"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{suite}\s+.*\bmain\b", line)
            if found:
                return found.group(1)
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = {k.strip().lower(): v.split() for k, _, v in (line.partition(":") for line in stanza.splitlines())}
            if suite in fields.get("suites", []) and "main" in fields.get("components", []) and fields.get("uris"):
                return fields["uris"][0]
    return None


def proxy_settings() -> list:
    """The lines of this machine's apt configuration that name proxies or how https is checked."""
    done = subprocess.run(["apt-config", "dump"], stdout=subprocess.PIPE, text=True)
    wanted = re.compile(r"(?i)Acquire::https?::(.*Proxy|Verify|CaInfo)")
    return [line for line in done.stdout.splitlines() if wanted.match(line)]


def step(what: str, command: list, **options) -> None:
    print(what, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        reasons = [line for line in lines if line.startswith(("E:", "E ", "W:"))] or lines
        raise CaffeError(f"{what} failed: {reasons[-1]}")


def install(root: Path, mirror: str | None) -> None:
    """debootstrap, then apt inside the root; each finished part is skipped when run again."""
    if os_release().get("ID") not in ("debian", "ubuntu", "raspbian") or not shutil.which("apt-get"):
        raise CaffeError(f"real Caffe is set up from Debian's packages, and this is no Debian machine; {OTHERWISE}")
    if os.geteuid() != 0:
        raise CaffeError(
            f"setting up {root} needs root rights (debootstrap): run `make bvlc` as root with the same "
            f"XDG_CACHE_HOME or HOME; {OTHERWISE}"
        )
    settings = proxy_settings()
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    for line in settings:  # debootstrap downloads by wget, which does not read apt's configuration
        found = re.match(r'(?i)Acquire::(https?)::Proxy "(.+)";', line)
        if found and found.group(2).upper() != "DIRECT":
            env.setdefault(found.group(1).lower() + "_proxy", found.group(2))
    if not shutil.which("debootstrap"):
        step("apt-get update", ["apt-get", "update"], env=env)
        step("installing debootstrap", ["apt-get", "install", "-y", "--no-install-recommends", "debootstrap"], env=env)
    bootstrapped = root / "etc" / "ilgnet-debootstrapped"
    if not bootstrapped.exists() and not (root / "var/lib/dpkg/info/libcaffe1:amd64.list").exists():
        # A debootstrap that was killed leaves this machine's own file systems in it: they must not be emptied.
        mounted = [str(root / name) for name in MOUNTED if os.path.ismount(root / name)]
        if mounted:
            raise CaffeError(f"{root}: file systems are still mounted in it; first: umount {' '.join(mounted)}")
        if root.exists():
            shutil.rmtree(root)  # half a debootstrap cannot be taken up again
        root.mkdir(parents=True)
        mirror = mirror or debian_mirror()
        command = ["debootstrap", "--variant=minbase", SUITE, str(root), *([mirror] if mirror else [])]
        step(f"debootstrap {SUITE} into {root} (half a minute)", command, env=env)
        bootstrapped.write_text("")
    conf = root / "etc/apt/apt.conf.d/90ilgnet"
    conf.write_text("".join(line + "\n" for line in settings))
    inside = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
    if Path("/etc/resolv.conf").is_file():
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    apt = [*inside, "apt-get", "-o", "APT::Sandbox::User=root"]
    step("apt-get update in it", [*apt, "update"], env=env)
    step("installing caffe in it (a minute)", [*apt, "install", "-y", "--no-install-recommends", *PACKAGES], env=env)
    for path in sorted(root.glob("usr/lib/*/openblas-pthread/lib*.so.[0-9]")):
        name = f"{path.name}-{path.parents[1].name}"
        command = [*inside, "update-alternatives", "--set", name, str(Path("/") / path.relative_to(root))]
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    step("cleaning apt's cache", [*inside, "apt-get", "clean"], env=env)


def works(root: Path) -> str:
    """What the root's Caffe answers; CaffeError where it does not run."""
    env = bvlc.bvlc_env(env={"PYTHONHOME": str(root / "usr")})
    command = bvlc.loader_command(root, "caffe")
    answer = bvlc.run([*command, "--version"], True, "caffe --version", env=env).stdout.strip()
    command = bvlc.loader_command(root, "python3.9")
    return answer + "; " + bvlc.run([*command, "-c", CHECK], True, "import caffe", env=env).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__name__)
    parser.add_argument("--mirror", help=f"Debian mirror that has {SUITE} (default: from the apt sources here)")
    args = parser.parse_args(argv)
    root = bvlc.cache_root()
    if not (root / bvlc.MARKER).is_file():
        try:
            answer = works(root)  # a root made by hand is adopted
        except (CaffeError, OSError):
            install(root, args.mirror)
            answer = works(root)
        (root / bvlc.MARKER).write_text(answer + "\n")  # last: its presence says that all of the above is done
    print(f"real Caffe is in {root}: {(root / bvlc.MARKER).read_text().strip()}")
    print("Next: use it with --engine bvlc, or compare the engines: make parity")
    return 0
