"""Installation of real BVLC Caffe 1.0.0 from Debian 11's packages, by debootstrap, into the user's cache folder."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

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


def os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def apt(*words: str) -> list[str]:
    """The lines that one of apt's programs prints."""
    return subprocess.run(words, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def debian_mirror(*options: str) -> str | None:
    """The mirror that this machine's own apt sources name for its Debian release; None: leave it to debootstrap.

    options: of apt-get."""
    release = os_release()
    if release.get("ID") != "debian":
        return None
    wanted = ("Component: main", f"Release: {release.get('VERSION_CODENAME')}")
    lines = apt("apt-get", *options, "indextargets", "--no-release-info", "--format", "$(REPO_URI)", *wanted)
    return lines[0] if lines else None


def proxy_settings() -> list[str]:
    """The lines of this machine's apt configuration that name proxies or how https is checked."""
    wanted = re.compile(r"(?i)Acquire::https?::(.*Proxy|Verify|CaInfo)")
    return list(filter(wanted.match, apt("apt-config", "dump")))


def step(what: str, command: list[str], env: dict[str, str]) -> None:
    print(what, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        reasons = [line for line in lines if line.startswith(("E:", "E ", "W:"))] or lines
        raise CaffeError(f"{what} failed: {reasons[-1]}; it needs a Debian mirror; {OTHERWISE}")


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
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for line in settings:  # debootstrap downloads by wget, which does not read apt's configuration
        found = re.match(r'(?i)Acquire::(https?)::Proxy "(.+)";', line)
        if found and found.group(2).upper() != "DIRECT":
            env.setdefault(f"{found.group(1).lower()}_proxy", found.group(2))
    if not shutil.which("debootstrap"):
        step("apt-get update", ["apt-get", "update"], env)
        step("installing debootstrap", ["apt-get", "install", "-y", "--no-install-recommends", "debootstrap"], env)
    bootstrapped = root / "etc" / "ilgnet-debootstrapped"
    if not bootstrapped.exists() and not (root / "var/lib/dpkg/info/libcaffe1:amd64.list").exists():
        # A debootstrap that was killed leaves this machine's own file systems in it: they must not be emptied.
        mounted = [str(root / name) for name in MOUNTED if os.path.ismount(root / name)]
        if mounted:
            raise CaffeError(f"{root}: file systems are still mounted in it; first: umount {' '.join(mounted)}")
        if root.exists():
            shutil.rmtree(root)  # debootstrap cannot resume
        root.mkdir(parents=True)
        mirrors = filter(None, [mirror or debian_mirror()])
        command = ["debootstrap", "--variant=minbase", SUITE, str(root), *mirrors]
        step(f"debootstrap {SUITE} into {root} (half a minute)", command, env)
        bootstrapped.touch()
    (root / "etc/apt/apt.conf.d/90ilgnet").write_text("".join(f"{line}\n" for line in settings))
    apt_get = ["chroot", str(root), "apt-get", "-o", "APT::Sandbox::User=root"]
    step("apt-get update in it", [*apt_get, "update"], env)
    step("installing caffe in it (a minute)", [*apt_get, "install", "-y", "--no-install-recommends", *PACKAGES], env)
    step("cleaning apt's cache", [*apt_get, "clean"], env)


def works(root: Path) -> str:
    """What the root's Caffe answers; CaffeError where it does not run."""
    env = bvlc.bvlc_env({"PYTHONHOME": str(root / "usr")})

    def answer(program: str, *words: str) -> str:
        return bvlc.run([*bvlc.loader_command(root, program), *words], program, env=env).stdout.strip()

    return f"{answer('caffe', '--version')}; {answer('python3.9', '-c', CHECK)}"


def set_up(mirror: str | None) -> str:
    """Install real Caffe unless it is there and works. Returns where it is, with its versions."""
    root = bvlc.cache_root()
    marker = root / bvlc.MARKER
    if not marker.is_file():
        try:
            answer = works(root)  # a root made by hand is adopted
        except (CaffeError, OSError):
            install(root, mirror)
            answer = works(root)
        marker.write_text(answer + "\n")  # last: its presence says that all of the above is done
    return f"{root}: {marker.read_text().strip()}"
