#!/bin/sh
# An arm64 Debian in a folder, for `make test-arm`: sh tools/arm_root.sh FOLDER. Made once; needs root, a network,
# debootstrap and qemu-user-static. Packages come from this machine's own Debian mirror where it has one.
set -eu
root=$1
for program in debootstrap qemu-aarch64-static; do
    command -v $program > /dev/null || { echo "sudo apt install debootstrap qemu-user-static"; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "a chroot needs root: sudo make test-arm"; exit 1; }
formats=/proc/sys/fs/binfmt_misc
[ -e $formats/register ] || mount -t binfmt_misc none $formats
[ -e $formats/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf > $formats/register
[ -e "$root/.complete" ] && exit
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2> /dev/null | grep '/debian/$' | head -n 1)
rm -rf "$root"
mkdir -p "$root"
debootstrap --arch=arm64 --variant=minbase --include=python3 bookworm "$root" "${mirror:-https://deb.debian.org/debian}"
touch "$root/.complete"
