#!/bin/sh
# edge-lfm installed for every newer Python that this machine has, for `make test-pythons`: sh tools/pythons.sh FOLDER.
# With a wheel, sh tools/pythons.sh FOLDER WHEEL: that wheel without extras, for Python 3.11 too, in new environments.
# Prints the interpreters. Where there is no Python 3.14, and this is root with debootstrap, Debian's next release has one.
set -eu
mkdir -p "$1"
folder=$(realpath "$1")
project=$(dirname "$(realpath "$0")")/..'[server,grammar,gguf,onnx,hub,plot,completion]'
names='python3.12 python3.13 python3.14'
if [ $# -gt 1 ]; then
    project=$(realpath "$2")
    names="python3.11 $names"
    rm -rf "$folder"/python3.*
fi
install='pip --quiet --disable-pip-version-check install --upgrade'

# The interpreter of a Debian in a folder, by that Debian's own loader and libraries: nothing has to change its root.
debian_python() {
    root=$(dirname "$folder")/debian  # of every FOLDER beside it
    if [ ! -e "$root/.complete" ]; then
        rm -rf "$root"
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 2> /dev/null | grep '/debian/$' | head -n 1)
        debootstrap --variant=minbase --include=python3.14 forky "$root" "${mirror:-https://deb.debian.org/debian}" \
            /usr/share/debootstrap/scripts/sid > "$folder/debian.log" 2>&1 || { tail "$folder/debian.log" >&2; exit 1; }
        touch "$root/.complete"
    fi
    mkdir -p "$folder/python3.14/bin"
    cat > "$folder/python3.14/bin/python" << END
#!/bin/sh
export PYTHONHOME=$root/usr PYTHONPATH=$folder/python3.14/packages
exec $root/lib64/ld-linux-x86-64.so.2 --argv0 "\$0" --library-path $root/usr/lib/x86_64-linux-gnu $root/usr/bin/python3.14 "\$@"
END
    chmod +x "$folder/python3.14/bin/python"
    ${PYTHON:-python3} -m $install --python-version 3.14 --only-binary=:all: --target "$folder/python3.14/packages" "$project" >&2
    echo "$folder/python3.14/bin/python"
}

for name in $names; do
    for python in "$(command -v $name || true)" "$HOME/.pyenv/versions/${name#python}".*/bin/python; do
        if [ -x "$python" ] && "$python" -c 'import ensurepip, venv' 2> /dev/null; then
            [ -x "$folder/$name/bin/python" ] || "$python" -m venv "$folder/$name"
            "$folder/$name/bin/python" -m $install "$project" >&2
            echo "$folder/$name/bin/python"
            continue 2
        fi
    done
    if [ $name = python3.14 ] && [ "$(id -u)" = 0 ] && [ "$(uname -m)" = x86_64 ] && command -v debootstrap > /dev/null; then
        debian_python
    fi
done
