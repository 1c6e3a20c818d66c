#!/bin/sh
# Makes the arm64 Debian system on which the board's tests run: root.sh FOLDER PYTHON
#
# FOLDER/root is made once, by debootstrap and qemu, and again only when this file changes; the
# packages in it when requirements.txt does. PYTHON's pip fetches the aarch64 wheels, natively and
# with the settings of this machine, so that nothing inside needs a network.
set -eu
board=$1 python=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$board/root
packages=$root/usr/local/lib/python3.11/dist-packages

made() { # NAME FILE: whether FOLDER holds what FILE describes as it is now
    [ "$(cat "$board/$1.key" 2> /dev/null)" = "$(sha256sum < "$2")" ]
}
remember() { # NAME FILE
    sha256sum < "$2" > "$board/$1.key"
}

# Let the kernel start arm64 programs; the flag F keeps qemu open, so that a chroot needs no copy.
binfmt=/proc/sys/fs/binfmt_misc
[ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
if [ ! -e $binfmt/qemu-aarch64 ]; then
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" \
        > $binfmt/register
fi

make_root() {
    # shellcheck disable=SC2016 # apt fills these in
    mirror=$(apt-get indextargets --format '$(LABEL) $(SITE)' 'Created-By: Packages' 2> /dev/null |
        awk '$1 == "Debian" { print $2; exit }')
    rm -rf "$root" "$board"/*.key
    # shellcheck disable=SC2086 # no mirror found: debootstrap takes its own
    debootstrap --arch=arm64 --variant=minbase --include=python3.11 --foreign \
        bookworm "$root" $mirror
    unshare --mount chroot "$root" /debootstrap/debootstrap --second-stage
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    ln -sf python3.11 "$root/usr/bin/python3"
}

install_packages() {
    rm -rf "$packages" "$board/packages.key"
    "$python" -m pip install --quiet --requirement "$here/requirements.txt" \
        --target "$packages" --python-version 3.11 --implementation cp --only-binary :all: \
        --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64
}

if ! made root "$here/root.sh"; then
    make_root
    remember root "$here/root.sh"
fi
if ! made packages "$here/requirements.txt"; then
    install_packages
    remember packages "$here/requirements.txt"
fi
