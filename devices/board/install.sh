#!/bin/sh
# Install edge-lfm from this bundle, without a network: sh install.sh [FOLDER]
# FOLDER: /opt/edge-lfm for root, ~/.local/share/edge-lfm for others. Installing again replaces what is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ "$(id -u)" = 0 ]; then to=/opt/edge-lfm; else to=$HOME/.local/share/edge-lfm; fi
to=${1:-$to}

fail() {
    echo "install.sh: $1" >&2
    echo "  $2" >&2
    exit 1
}

[ "$(uname -m)" = "@MACHINE@" ] || fail "this bundle is for @MACHINE@, and this is $(uname -m)" \
    "make one for this machine: edge-lfm bundle --target TARGET"
python=$(command -v "python@PYTHON@" || command -v python3) || fail "there is no Python" "sudo apt install python3"
found=$("$python" -c 'import struct, sys; print("%d.%d %d" % (*sys.version_info[:2], 8 * struct.calcsize("P")))')
[ "$found" = "@PYTHON@ 64" ] || fail "this bundle is for a 64-bit Python @PYTHON@; found: Python $found bits" \
    "make it for this board's Python: edge-lfm bundle --python VERSION"
(cd "$here" && sha256sum --check --quiet SHA256SUMS) || fail "files of the bundle are damaged" "copy it again"

echo "installing into $to"
{ mkdir -p "$to" && to=$(cd "$to" && pwd) && rm -rf "$to/new" && mkdir -p "$to/new/lib"; } ||
    fail "$to cannot be written" "name another folder: sh install.sh FOLDER"
for wheel in "$here"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$to/new/lib"
done
find "$to/new/lib" -type d -name tests -prune -exec rm -rf {} + # 30 MB of packages' own tests
find "$to/new/lib" -name '*.pyi' -delete # 2 MB that only type checkers read
rm -rf "$to/new/lib/numpy/f2py" # 1 MB for Fortran
find "$to/new/lib" -name '*.[ach]' -delete # 1 MB that only compilers read
cp -r "$here/kernels" "$to/new/kernels"
"$python" -m compileall -q -x 'edge_lfm/kernels/(build|lang|ops)/' "$to/new/lib" > /dev/null || true # some packages carry templates that are not Python
cp "$here/selftest.py" "$here/expected.json" "$to/new"
# What is there already stays until the board has answered.
if ! PYTHONPATH="$to/new/lib" EDGE_LFM_KERNELS="$to/new/kernels" "$python" -sP "$to/new/selftest.py"; then
    rm -rf "$to/new"
    fail "the self-test failed, and nothing was installed" "make a bundle for this board: edge-lfm bundle --target TARGET"
fi
mkdir -p "$to/new/bin"
cat > "$to/new/bin/edge-lfm" << END
#!/bin/sh
export EDGE_LFM_KERNELS="\${EDGE_LFM_KERNELS:-$to/kernels}" PYTHONPATH="$to/lib"
exec "$python" -sP -m edge_lfm.cli.main "\$@"
END
chmod +x "$to/new/bin/edge-lfm"
for part in lib kernels bin selftest.py expected.json; do
    rm -rf "${to:?}/$part"
    mv "$to/new/$part" "$to/$part"
done
rmdir "$to/new"
model=
if [ -d "$here/model" ]; then
    rm -rf "$to/model"
    # Hard links where the bundle lies on the same disk: the weights are there once.
    cp -rl "$here/model" "$to/model" 2> /dev/null || { rm -rf "$to/model" && cp -r "$here/model" "$to/model"; }
    model=$to/model
fi
if [ "$(id -u)" = 0 ]; then who=DynamicUser=yes; else who=User=$(id -un); fi
sed -e "s|@FOLDER@|$to|g" -e "s|@MODEL@|$model|g" -e "s|@WHO@|$who|" "$here/edge-lfm.service" > "$to/edge-lfm.service"

echo "installed: $(du -sk --exclude=demo_model --exclude=demo_drafter "$to/lib" "$to/kernels" | awk '{ n += $1 } END { printf "%.0f MB", n / 1000 }') without models"
echo "  chat:        $to/bin/edge-lfm chat $model"
echo "  will it fit: $to/bin/edge-lfm fit ${model:-lfm2-24b-a2b}"
echo "  as a server: sudo cp $to/edge-lfm.service /etc/systemd/system && sudo systemctl enable --now edge-lfm"
