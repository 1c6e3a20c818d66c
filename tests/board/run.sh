#!/bin/sh
# Tests img2img on an emulated RK3588 board: run.sh MODELS [PYTEST_ARGUMENTS]
#
# Without further arguments it runs the tests of this folder and those of the core, of ONNX Runtime
# and of parity, but for those marked slow, of which qemu makes hours, and those marked host: the
# reason stands beside each mark.
#
# qemu runs an arm64 Debian with the real rknn-toolkit-lite2; our librknnrt.c stands in for the
# NPU's library, and npu.py does its arithmetic outside. MODELS/256x256 and MODELS/192x128 are the
# demo bundle as `lcm build rknn` makes it, MODELS/tiles the former with the VAE compiled for tiles.
#
# Needs root, x86-64 Linux, and from Debian: qemu-user-static debootstrap gcc-aarch64-linux-gnu
# libc6-dev-arm64-cross. PYTHON has lcmcore with ONNX Runtime (default .venv/bin/python);
# BOARD is where the system is kept from run to run (default .board).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
board=${BOARD:-$repo/.board}
mkdir -p "$board"
board=$(cd "$board" && pwd)
python=${PYTHON:-$repo/.venv/bin/python}
models=$(cd "$1" && pwd)
shift
[ $# != 0 ] || set -- tests/board tests/core tests/onnx tests/parity tests/cli/test_bench.py \
    -m "not host and not slow"
root=$board/root

need() {
    command -v "$1" > /dev/null || {
        echo "$0: no $1: apt-get install $2" >&2
        exit 1
    }
}
[ "$(id -u)" = 0 ] || { echo "$0: only root can make and enter the board's system" >&2; exit 1; }
need qemu-aarch64-static qemu-user-static
need debootstrap debootstrap
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

"$here/root.sh" "$board" "$python"

# qemu looks under QEMU_LD_PREFIX before it opens any file: that is how a folder becomes a board.
make_board() { # NAME SOC
    rm -rf "$root/boards/$1"
    mkdir -p "$root/boards/$1/proc/device-tree" "$root/boards/$1/usr/lib"
    printf 'radxa,rock-5b\0rockchip,%s\0' "$2" > "$root/boards/$1/proc/device-tree/compatible"
    # The NPU is the second render node, as on a Rock 5B. Nothing but `lcm doctor` opens it here.
    mkdir -p "$root/boards/$1/sys/class/drm/renderD129/device" "$root/boards/$1/dev/dri"
    echo 'DRIVER=RKNPU' > "$root/boards/$1/sys/class/drm/renderD129/device/uevent"
    touch "$root/boards/$1/dev/dri/renderD129"
}
compile() { # BOARD [OPTION]
    name=$1
    shift
    aarch64-linux-gnu-gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -shared -fPIC "$@" \
        -o "$root/boards/$name/usr/lib/librknnrt.so" "$here/librknnrt.c"
}
make_board rk3588 rk3588
compile rk3588
mkdir -p "$root/boards/rk3588/sys/kernel/debug/rknpu"
echo 'RKNPU driver: v0.9.8' > "$root/boards/rk3588/sys/kernel/debug/rknpu/version"
make_board rk3568 rk3568
compile rk3568
make_board old-library rk3588
compile old-library -DBEFORE_DYNAMIC_SHAPES
make_board no-library rk3588
make_board no-device rk3588
compile no-device
rm "$root/boards/no-device/dev/dri/renderD129"

# What is tested, anew every time; the wheel is pure Python, so the host's pip may install it.
work=$root/srv/lcmcore
rm -rf "$root/opt/lcmcore" "$work" "$root"/tmp/*
mkdir -p "$work"
"$python" -m pip install --quiet --no-deps --target "$root/opt/lcmcore" "$repo"
sed -i '1s,.*,#!/usr/bin/python3,' "$root/opt/lcmcore/bin/lcm"
cp -r "$repo/tests" "$repo/pyproject.toml" "$work"
cp -r "$models" "$work/models"
(cd "$repo" && "$python" -c 'import pathlib, sys, tests.rknn.fixtures as fixtures
fixtures.write_bundle(pathlib.Path(sys.argv[1]))' "$work/models/48x32")
"$python" "$here/images.py" "$work/host" "$repo/assets/demo"

rm -f "$root/run/npu.sock"
serve() {
    set -- "$repo/tests/tiny/lcm" "$work/models/48x32"
    for size in 256x256 192x128 tiles; do
        set -- "$@" "$repo/assets/demo" "$work/models/$size"
    done
    exec "$python" "$here/npu.py" "$root/run/npu.sock" "$@"
}
serve &
npu=$!
trap 'kill $npu' EXIT
trap 'exit 130' INT TERM
while [ ! -S "$root/run/npu.sock" ] && kill -0 $npu; do sleep 0.1; done

# No sysfs: there onnxruntime takes the x86 host for its own and crashes.
# CI=1 makes hypothesis forget its deadlines, which an emulator cannot keep.
# shellcheck disable=SC2016 # the inner shell's
unshare --mount sh -c '
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/dev/shm"
    exec chroot "$root" env -i "$@"
' - "$root" PATH=/opt/lcmcore/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 CI=1 \
    PYTHONPATH=/opt/lcmcore QEMU_LD_PREFIX=/boards/rk3588 \
    sh -c 'cd /srv/lcmcore && exec python3 -m pytest -p no:cacheprovider --numprocesses 2 --dist loadfile "$@"' - "$@"
