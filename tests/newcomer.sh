#!/usr/bin/env bash
# README.md word by word: a clone in an empty folder, an empty HOME, and its commands in their order,
# then its program. `make test` is left out, and there is a folder of one photo. A minute or two.
#
#     tests/newcomer.sh
set -euo pipefail
sources=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
blocks() { awk -v start="^\`\`\`$1\$" '$0 ~ start { on = 1; next } /^```$/ { on = 0 } on' README.md; }

if ! git clone --quiet "$sources" "$place/lcmcore" 2> /dev/null; then # sources without a history, or of another user
    mkdir "$place/lcmcore"
    tar -C "$sources" --exclude=./.git --exclude='./.*venv*' --exclude=./.board --exclude=./out --exclude=./dist -c . |
        tar -C "$place/lcmcore" -x
fi
cd "$place/lcmcore"
mkdir "$place/home" photos
cp docs/pictures/scribble.png photos/
{
    echo 'set -eux'
    blocks sh | grep -vx 'make test'
    echo 'python - << "END"'
    blocks python
    echo END
} > "$place/commands"
env -u PYTHONPATH -u VIRTUAL_ENV -u LCM_MODEL HOME="$place/home" bash "$place/commands"
ls out/demo.png desert.png night.png sunset.png snowy/scribble.png dawn.png
