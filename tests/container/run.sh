#!/bin/sh
# Runs lcm in a root made by docker/root.sh as `docker run` would: run.sh ROOT WORK ARGUMENTS
#
# With a /proc and a small /dev of its own, without network, as the user 1000, the root read-only but
# for /tmp; WORK is mounted as /images. Variables and command are those of docker/Dockerfile. Root, Linux.
set -eu
root=$(realpath "$1") work=$(realpath "$2")
shift 2
export root work
exec unshare --mount --pid --net --ipc --fork sh -c '
    set -eu
    mount --bind "$root" "$root"
    mount --bind "$work" "$root/images"
    mount -o remount,bind,ro "$root"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/dev"
    for name in null zero random urandom; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    mkdir -m 1777 "$root/dev/shm"
    exec env -i HOME=/images PATH=/usr/bin PYTHONPATH=/opt/lcm PYTHONDONTWRITEBYTECODE=1 LCM_CACHE=/tmp/lcm \
        /usr/sbin/chroot --userspec=1000:1000 "$root" \
        /usr/bin/python3 -c "import os, sys; os.chdir(\"/images\"); os.execv(sys.argv[1], sys.argv[1:])" \
        /usr/bin/python3 /opt/lcm/bin/lcm "$@"
' sh "$@"
