#!/bin/sh
# The init of the test initramfs. Kernel command line words it reads:
#   work=sha|gzip|loop|none   what to do before powering off
#   exec=CMD                  a shell command (percent-encoded); its exit status is reported
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys

word() { # the value of a word NAME=… of the command line
    for w in $(cat /proc/cmdline); do
        case "$w" in "$1="*) echo "${w#*=}" ;; esac
    done
}

while read -r m; do
    insmod "/mod/$m.ko" || echo "SWTDX-INIT insmod $m failed"
done </mod/order

echo "SWTDX-MARKER user space is up on $(uname -r) with $(grep -c ^processor /proc/cpuinfo) processors"
dmesg | grep -iE 'tdx|memory encryption|coco' | head -20
tdreport

case "$(word work)" in
sha) dd if=/dev/zero bs=1M count=100 2>/dev/null | sha256sum ;;
gzip) dd if=/bin/busybox bs=64k 2>/dev/null | gzip -6 | wc -c ;;
loop)
    i=0
    while [ $i -lt 300000 ]; do i=$((i + 1)); done
    echo "loop $i"
    ;;
esac

command=$(word exec)
if [ -n "$command" ]; then
    printf '%b' "$(echo "$command" | sed 's/%/\\x/g')" >/tmp/command
    sh /tmp/command
    echo "SWTDX-EXIT $?"
fi
echo "SWTDX-DONE"
poweroff -f
