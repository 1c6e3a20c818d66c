#!/bin/sh
# Puts Debian's Python, ONNX Runtime and lcmcore into an empty folder, the root of a container:
#
#     root.sh ROOT SOURCES
#
# SOURCES is a clone, or a wheel. Needs Debian's or Ubuntu's apt and python3 with pip (PYTHON names
# another one of the same version), and no root. The container has no shell and no package manager.
set -eu
root=$1 sources=$2
python=${PYTHON:-/usr/bin/python3}
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
version=$(version_of /usr/bin/python3)

if [ "$(version_of "$python")" != "$version" ]; then
    echo "root.sh: $python is not Python $version, which /usr/bin/python3 is" >&2
    exit 1
fi
if [ -n "$(ls -A "$root" 2> /dev/null)" ]; then
    echo "root.sh: $root is not empty" >&2
    exit 1
fi
mkdir -p "$root/opt/lcm" "$root/tmp" "$root/images" "$root/proc" "$root/dev"
chmod 1777 "$root/tmp" "$root/images"

# Python and what its modules link with, unpacked without being installed.
debs=$(mktemp -d)
trap 'rm -rf "$debs"' EXIT
# Ubuntu and Debian after 12 have renamed two of them for 64-bit time.
newest() { apt-cache search --names-only "^($1)\$" | awk '{ print $1 }' | sort | tail -n 1; }
(
    cd "$debs"
    # shellcheck disable=SC2046 # a name for each word
    apt-get -qq download "python$version-minimal" "libpython$version-minimal" \
        "libpython$version-stdlib" libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libbz2-1.0 \
        liblzma5 libffi8 libuuid1 libzstd1 $(newest 'libssl3|libssl3t64')
)
for deb in "$debs"/*.deb; do
    dpkg-deb --extract "$deb" "$root"
done
for folder in lib lib64; do # where /usr was merged, the packages hold /usr/lib only
    [ -e "$root/$folder" ] || [ ! -d "$root/usr/$folder" ] || ln -s "usr/$folder" "$root/$folder"
done
ln -s "python$version" "$root/usr/bin/python3"
mkdir -p "$root/etc"
echo 'lcm:x:1000:1000::/images:' > "$root/etc/passwd"

"$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-cache-dir \
    --target "$root/opt/lcm" "$sources[onnx]"

# What no program here reads.
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/lintian "$root"/usr/lib/*/gconv
find "$root/opt/lcm" -depth -type d \( -name tests -o -name f2py -o -name include \) -exec rm -rf {} +
for part in transformers tools quantization datasets; do
    rm -rf "$root/opt/lcm/onnxruntime/$part"
done
du -sm "$root" | awk '{ print $1 " MB in " $2 }'
